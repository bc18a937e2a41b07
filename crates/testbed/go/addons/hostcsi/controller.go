package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func (d *driver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	types := []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
		csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
	}
	if d.attach {
		types = append(types, csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME)
	}
	response := &csi.ControllerGetCapabilitiesResponse{}
	for _, t := range types {
		response.Capabilities = append(response.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: t}},
		})
	}
	return response, nil
}

func (d *driver) volume(r *record, source *csi.VolumeContentSource) *csi.CreateVolumeResponse {
	v := &csi.Volume{VolumeId: r.ID, CapacityBytes: r.Size, ContentSource: source}
	if d.topology {
		v.AccessibleTopology = []*csi.Topology{{Segments: map[string]string{topologyKey: r.Node}}}
	}
	return &csi.CreateVolumeResponse{Volume: v}
}

// wanted reads the request's medium and size.
func (d *driver) wanted(q *csi.CreateVolumeRequest) (*record, error) {
	r := &record{ID: q.Name, Name: q.Name, Node: d.node, Medium: mediumDirectory, Created: time.Now()}
	switch m := q.Parameters["medium"]; m {
	case "", mediumDirectory:
	case mediumLoop:
		r.Medium = mediumLoop
	default:
		return nil, status.Errorf(codes.InvalidArgument, "unknown medium %q", m)
	}
	for _, c := range q.VolumeCapabilities {
		if c.GetBlock() != nil {
			r.Medium = mediumBlock
		}
	}
	if r.Medium == mediumLoop && !d.topology {
		// Two nodes would mount the same file system at once.
		return nil, status.Error(codes.InvalidArgument, "medium loop is for volumes of one node")
	}
	r.Size = max(q.GetCapacityRange().GetRequiredBytes(), 1<<20)
	if r.Medium == mediumLoop {
		r.Size = max(r.Size, smallestFileSystem)
	}
	return r, nil
}

func (d *driver) CreateVolume(_ context.Context, q *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, err := d.dir("volumes", q.Name)
	if err != nil {
		return nil, err
	}
	r, err := d.wanted(q)
	if err != nil {
		return nil, err
	}
	if old, err := load(dir); err == nil {
		if old.Medium != r.Medium || old.Size < r.Size && q.VolumeContentSource == nil {
			return nil, status.Error(codes.AlreadyExists, "there is a volume of that name and another size or medium")
		}
		return d.volume(old, q.VolumeContentSource), nil
	}
	// What is there without a record was cut short.
	if err := removeVolume(dir); err != nil {
		return nil, err
	}
	if err := d.fill(r, dir, q.VolumeContentSource); err != nil {
		return nil, errors.Join(err, removeVolume(dir))
	}
	return d.volume(r, q.VolumeContentSource), nil
}

// fill makes the data of a new volume: empty or a copy.
func (d *driver) fill(r *record, dir string, source *csi.VolumeContentSource) error {
	kind, id := "", ""
	if s := source.GetSnapshot(); s != nil {
		kind, id = "snapshots", s.SnapshotId
	} else if s := source.GetVolume(); s != nil {
		kind, id = "volumes", s.VolumeId
	}
	if kind == "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := r.format(dir); err != nil {
			return err
		}
		return save(dir, r)
	}
	from, fromDir, err := d.find(kind, id)
	if err != nil {
		return err
	}
	if from.Medium != r.Medium {
		return status.Errorf(codes.InvalidArgument, "the source is a %s, the volume is to be a %s", from.Medium, r.Medium)
	}
	r.Size = max(r.Size, from.Size)
	if err := copyTree(fromDir, dir); err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	if err := r.grow(dir); err != nil {
		return err
	}
	return save(dir, r)
}

func removeVolume(dir string) error {
	if err := unstage(dir); err != nil {
		return err
	}
	if isMounted(staging(dir)) {
		return status.Error(codes.FailedPrecondition, "the volume is in use")
	}
	return os.RemoveAll(dir)
}

func (d *driver) DeleteVolume(_ context.Context, q *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, err := d.dir("volumes", q.VolumeId)
	if err != nil {
		return nil, err
	}
	return &csi.DeleteVolumeResponse{}, removeVolume(dir)
}

func (d *driver) ValidateVolumeCapabilities(_ context.Context, q *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if _, _, err := d.find("volumes", q.VolumeId); err != nil {
		return nil, err
	}
	return &csi.ValidateVolumeCapabilitiesResponse{
		Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: q.VolumeCapabilities},
	}, nil
}

func (d *driver) ControllerPublishVolume(_ context.Context, q *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, dir, err := d.find("volumes", q.VolumeId)
	if err != nil {
		return nil, err
	}
	if r.AttachedTo != "" && r.AttachedTo != q.NodeId {
		return nil, status.Errorf(codes.FailedPrecondition, "volume is attached to node %s", r.AttachedTo)
	}
	r.AttachedTo = q.NodeId
	return &csi.ControllerPublishVolumeResponse{}, save(dir, r)
}

func (d *driver) ControllerUnpublishVolume(_ context.Context, q *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, dir, err := d.find("volumes", q.VolumeId)
	if status.Code(err) == codes.NotFound {
		return &csi.ControllerUnpublishVolumeResponse{}, nil
	} else if err != nil {
		return nil, err
	}
	if q.NodeId != "" && r.AttachedTo != q.NodeId {
		return &csi.ControllerUnpublishVolumeResponse{}, nil
	}
	r.AttachedTo = ""
	return &csi.ControllerUnpublishVolumeResponse{}, save(dir, r)
}

func (d *driver) ControllerExpandVolume(_ context.Context, q *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, dir, err := d.find("volumes", q.VolumeId)
	if err != nil {
		return nil, err
	}
	r.Size = max(r.Size, q.CapacityRange.GetRequiredBytes())
	if err := r.grow(dir); err != nil {
		return nil, err
	}
	return &csi.ControllerExpandVolumeResponse{
		CapacityBytes: r.Size, NodeExpansionRequired: r.Medium != mediumDirectory,
	}, save(dir, r)
}

func (d *driver) snapshot(r *record) *csi.CreateSnapshotResponse {
	return &csi.CreateSnapshotResponse{Snapshot: &csi.Snapshot{
		SnapshotId: r.ID, SourceVolumeId: r.Source, SizeBytes: r.Size,
		CreationTime: timestamppb.New(r.Created), ReadyToUse: time.Since(r.Created) >= d.delay,
	}}
}

func (d *driver) CreateSnapshot(_ context.Context, q *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, err := d.dir("snapshots", q.Name)
	if err != nil {
		return nil, err
	}
	if old, err := load(dir); err == nil {
		if old.Source != q.SourceVolumeId {
			return nil, status.Error(codes.AlreadyExists, "there is a snapshot of that name and another volume")
		}
		return d.snapshot(old), nil
	}
	volume, from, err := d.find("volumes", q.SourceVolumeId)
	if err != nil {
		return nil, err
	}
	temporary, err := d.dir("snapshots", "."+q.Name)
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(temporary); err != nil {
		return nil, err
	}
	if err := copyTree(from, temporary); err != nil {
		return nil, status.Error(codes.Internal, errors.Join(err, os.RemoveAll(temporary)).Error())
	}
	r := &record{
		ID: q.Name, Name: q.Name, Node: volume.Node, Source: volume.ID, Medium: volume.Medium, Size: volume.Size,
		Created: time.Now(),
	}
	if err := save(temporary, r); err != nil {
		return nil, err
	}
	if err := os.Rename(temporary, dir); err != nil {
		return nil, err
	}
	return d.snapshot(r), nil
}

func (d *driver) DeleteSnapshot(_ context.Context, q *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, err := d.dir("snapshots", q.SnapshotId)
	if err != nil {
		return nil, err
	}
	return &csi.DeleteSnapshotResponse{}, os.RemoveAll(dir)
}
