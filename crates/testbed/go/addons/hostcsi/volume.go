package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What a volume is made of.
const (
	mediumDirectory = "directory" // limited by the machine's disk only
	mediumBlock     = "block"     // a sparse file, used as a raw device
	mediumLoop      = "loop"      // an ext4 file system of exactly the volume's size: it can be full
)

// smallestFileSystem is what mkfs.ext4 makes with a journal.
const smallestFileSystem = 16 << 20

// record is what is known of a volume or a snapshot; it lies beside the data as meta.json.
type record struct {
	ID, Name, Node, Source, Medium string
	Size                           int64
	Created                        time.Time
	AttachedTo                     string
}

// The parts of a volume's directory.
func mountDir(dir string) string  { return filepath.Join(dir, "mount") }  // directory medium: the files
func blockFile(dir string) string { return filepath.Join(dir, "block") }  // block medium
func imageFile(dir string) string { return filepath.Join(dir, "image") }  // loop medium
func staging(dir string) string   { return filepath.Join(dir, "staged") } // loop medium: mounted here once a node

// backing is the file behind a volume's device, or "" if it has none.
func (r *record) backing(dir string) string {
	switch r.Medium {
	case mediumBlock:
		return blockFile(dir)
	case mediumLoop:
		return imageFile(dir)
	}
	return ""
}

// plainName refuses anything that would leave the data directory.
func plainName(id string) (string, error) {
	if id == "" || id == "." || id == ".." || strings.ContainsAny(id, "/\x00") {
		return "", status.Errorf(codes.InvalidArgument, "unusable name %q", id)
	}
	return id, nil
}

func (d *driver) dir(kind, id string) (string, error) {
	id, err := plainName(id)
	return filepath.Join(d.data, kind, id), err
}

func load(dir string) (*record, error) {
	b, err := os.ReadFile(filepath.Join(dir, "meta.json"))
	if err != nil {
		return nil, err
	}
	r := &record{}
	return r, json.Unmarshal(b, r)
}

// find loads a volume's or a snapshot's record and names its directory.
func (d *driver) find(kind, id string) (*record, string, error) {
	dir, err := d.dir(kind, id)
	if err != nil {
		return nil, "", err
	}
	r, err := load(dir)
	if os.IsNotExist(err) {
		return nil, dir, status.Errorf(codes.NotFound, "there is no %s in %s", id, kind)
	}
	return r, dir, err
}

func save(dir string, r *record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	temporary := filepath.Join(dir, ".meta.tmp")
	if err := os.WriteFile(temporary, b, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, filepath.Join(dir, "meta.json"))
}

func run(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// format makes an empty volume's data.
func (r *record) format(dir string) error {
	switch r.Medium {
	case mediumBlock:
		return truncate(blockFile(dir), r.Size)
	case mediumLoop:
		if err := truncate(imageFile(dir), r.Size); err != nil {
			return err
		}
		if _, err := run("mkfs.ext4", "-q", "-F", "-m", "0", imageFile(dir)); err != nil {
			return err
		}
		// Any user may write to a new volume, as to the directory ones.
		if err := r.stage(dir); err != nil {
			return err
		}
		if err := os.Chmod(staging(dir), 0o777); err != nil {
			return err
		}
		return unstage(dir)
	default:
		if err := os.Mkdir(mountDir(dir), 0o777); err != nil {
			return err
		}
		return os.Chmod(mountDir(dir), 0o777) // past the umask
	}
}

// grow makes the data as large as the record says; of a loop volume only while it is not mounted.
func (r *record) grow(dir string) error {
	file := r.backing(dir)
	if file == "" {
		return nil
	}
	if err := truncate(file, r.Size); err != nil {
		return err
	}
	// Devices are the machine's: this also sees one that the other node has mounted.
	device, err := loopDevice(file)
	if err != nil {
		return err
	}
	if r.Medium == mediumLoop && device == "" {
		// resize2fs wants a checked file system; 1 means that e2fsck mended something.
		if _, err := run("e2fsck", "-f", "-p", file); err != nil && exitCode(err) != 1 {
			return err
		}
		_, err := run("resize2fs", file)
		return err
	}
	return nil
}

func exitCode(err error) int {
	for err != nil {
		if exit, ok := err.(*exec.ExitError); ok {
			return exit.ExitCode()
		}
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			break
		}
		err = u.Unwrap()
	}
	return -1
}

// truncate makes the file at least that large.
func truncate(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() >= size {
		return err
	}
	return f.Truncate(size)
}

// copyTree copies a volume or a snapshot, without what is mounted in it. A mounted file system is frozen meanwhile,
// so that the copy of its image is a consistent one.
func copyTree(from, to string) error {
	if staged := staging(from); isMounted(staged) {
		if _, err := run("fsfreeze", "-f", staged); err != nil {
			return err
		}
		defer run("fsfreeze", "-u", staged)
	}
	_, err := run("cp", "-a", "--one-file-system", "--reflink=auto", "--sparse=auto", from, to)
	return err
}

// isMounted says whether path, a file or a directory, is a mount point in this node.
func isMounted(path string) bool {
	for _, m := range mounts() {
		if m.target == path {
			return true
		}
	}
	return false
}

type mount struct{ device, target string }

func mounts() []mount {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var found []mount
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 4 {
			found = append(found, mount{device: f[2], target: f[4]})
		}
	}
	return found
}

// stage mounts a loop volume's file system once in this node. The device goes away with the last mount, also when
// the node dies: mount(8) asks the kernel for that.
func (r *record) stage(dir string) error {
	if isMounted(staging(dir)) {
		return nil
	}
	if err := os.MkdirAll(staging(dir), 0o755); err != nil {
		return err
	}
	_, err := run("mount", "-t", "ext4", "-o", "loop", imageFile(dir), staging(dir))
	return err
}

// unstage unmounts a loop volume unless a pod of this node still uses it.
func unstage(dir string) error {
	device := ""
	for _, m := range mounts() {
		if m.target == staging(dir) {
			device = m.device
		}
	}
	if device == "" {
		return nil
	}
	for _, m := range mounts() {
		if m.device == device && m.target != staging(dir) {
			return nil
		}
	}
	_, err := run("umount", staging(dir))
	return err
}

// loopDevice is the device that already shows the file, or "".
func loopDevice(file string) (string, error) {
	out, err := run("losetup", "-n", "-O", "NAME", "-j", file)
	if fields := strings.Fields(out); err == nil && len(fields) > 0 {
		return fields[0], nil
	}
	return "", err
}
