# The tool image: every busybox applet that no better program provides. Debian's busybox needs the image's own libc,
# so it is asked for its list inside.
for applet in $(chroot . /bin/busybox --list); do
	[ -e "bin/$applet" ] || [ -L "bin/$applet" ] || [ -e "sbin/$applet" ] || ln -s busybox "bin/$applet"
done
