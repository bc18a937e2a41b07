package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func (d *driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	response := &csi.NodeGetInfoResponse{NodeId: d.node}
	if d.topology {
		response.AccessibleTopology = &csi.Topology{Segments: map[string]string{topologyKey: d.node}}
	}
	return response, nil
}

func (d *driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{Capabilities: []*csi.NodeServiceCapability{{
		Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{
			Type: csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
		}},
	}}}, nil
}

func (d *driver) NodePublishVolume(_ context.Context, q *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, dir, err := d.find("volumes", q.VolumeId)
	if err != nil {
		return nil, err
	}
	if d.topology && r.Node != d.node {
		return nil, status.Errorf(codes.FailedPrecondition, "volume is on node %s", r.Node)
	}
	if isMounted(q.TargetPath) {
		return &csi.NodePublishVolumeResponse{}, nil
	}
	source, err := r.source(dir)
	if err != nil {
		return nil, err
	}
	if err := makeTarget(q.TargetPath, r.Medium == mediumBlock); err != nil {
		return nil, err
	}
	if _, err := run("mount", "--bind", source, q.TargetPath); err != nil {
		return nil, err
	}
	if q.Readonly {
		if _, err := run("mount", "-o", "remount,bind,ro", q.TargetPath); err != nil {
			return nil, err
		}
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// source is what a pod gets to see, made ready.
func (r *record) source(dir string) (string, error) {
	switch r.Medium {
	case mediumLoop:
		return staging(dir), r.stage(dir)
	case mediumBlock:
		device, err := loopDevice(blockFile(dir))
		if err == nil && device == "" {
			device, err = run("losetup", "-f", "--show", blockFile(dir))
		}
		return device, err
	default:
		return mountDir(dir), nil
	}
}

func makeTarget(path string, file bool) error {
	if !file {
		return os.MkdirAll(path, 0o750)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func (d *driver) NodeUnpublishVolume(_ context.Context, q *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for isMounted(q.TargetPath) {
		if _, err := run("umount", q.TargetPath); err != nil {
			return nil, err
		}
	}
	if r, dir, err := d.find("volumes", q.VolumeId); err == nil {
		if err := r.release(dir); err != nil {
			return nil, err
		}
	}
	return &csi.NodeUnpublishVolumeResponse{}, os.RemoveAll(q.TargetPath)
}

// release gives the device back if nobody in this node uses the volume any more.
func (r *record) release(dir string) error {
	switch r.Medium {
	case mediumLoop:
		return unstage(dir)
	case mediumBlock:
		device, err := loopDevice(blockFile(dir))
		if err != nil || device == "" {
			return err
		}
		_, err = run("losetup", "-d", device) // the kernel waits for the last user to close it
		return err
	}
	return nil
}

func (d *driver) NodeExpandVolume(_ context.Context, q *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, dir, err := d.find("volumes", q.VolumeId)
	if err != nil {
		return nil, err
	}
	if file := r.backing(dir); file != "" {
		device, err := loopDevice(file)
		if err != nil {
			return nil, err
		}
		if device != "" {
			if _, err := run("losetup", "-c", device); err != nil {
				return nil, err
			}
			if r.Medium == mediumLoop {
				if _, err := run("resize2fs", device); err != nil {
					return nil, err
				}
			}
		}
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: r.Size}, nil
}
