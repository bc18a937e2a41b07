# The first process of a node, already in namespaces of its own: gives the node its own state directories and then
# becomes the pause program.
set -e
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind "{{node_dir}}/kubelet" /var/lib/kubelet
mount --make-rshared /var/lib/kubelet
mount --bind "{{node_dir}}/cni" /var/lib/cni
mount --bind "{{node_dir}}/varlog" /var/log
mount --bind "{{run}}/hostpath" /tmp/hostpath_pv
hostname "{{node}}"
ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
touch "{{node_dir}}/ready"
exec "{{bin}}/pause"
