// Command hostcsi is a small CSI driver for a test cluster on one machine. Volumes are directories, sparse files
// (block mode) or ext4 file systems of exactly the requested size (class parameter "medium: loop"), all below one
// data directory; snapshots are copies. It serves the kubelet's registration socket itself.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// topologyKey labels the node that a volume lives on.
const topologyKey = "topology.csi.testbed/node"

// driver answers all three CSI services for one driver name on one node.
type driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer

	name     string
	node     string
	data     string
	topology bool          // volumes belong to the node they were made on
	attach   bool          // volumes are attached to one node before use, like a cloud's disks
	delay    time.Duration // until a snapshot is ready to use

	mu sync.Mutex // one call at a time: every call is short, and idempotence is easy to see
}

func (d *driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: d.name, VendorVersion: "1"}, nil
}

func (d *driver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	types := []csi.PluginCapability_Service_Type{csi.PluginCapability_Service_CONTROLLER_SERVICE}
	if d.topology {
		types = append(types, csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS)
	}
	response := &csi.GetPluginCapabilitiesResponse{}
	for _, t := range types {
		response.Capabilities = append(response.Capabilities, &csi.PluginCapability{
			Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: t}},
		})
	}
	return response, nil
}

func (d *driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

// registrar tells the kubelet where the driver listens.
type registrar struct {
	registration.UnsafeRegistrationServer
	name, endpoint string
}

func (r registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type: "CSIPlugin", Name: r.name, Endpoint: r.endpoint, SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (registrar) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	log.Printf("registered=%v %s", s.PluginRegistered, s.Error)
	return &registration.RegistrationStatusResponse{}, nil
}

func listen(path string) net.Listener {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		log.Fatal(err)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		log.Fatal(err)
	}
	return listener
}

// logCalls writes one line a call; probes come every few seconds and say nothing.
func logCalls(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	response, err := handle(ctx, request)
	if err != nil || !strings.HasSuffix(info.FullMethod, "Probe") {
		log.Printf("%s err=%v", info.FullMethod, err)
	}
	return response, err
}

func main() {
	d := &driver{}
	flag.StringVar(&d.name, "name", "hostpath.csi.testbed", "driver name")
	flag.StringVar(&d.node, "node", "", "node name")
	flag.StringVar(&d.data, "data", "", "data directory, the same on all nodes")
	flag.BoolVar(&d.topology, "topology", true, "volumes belong to the node they were made on")
	flag.BoolVar(&d.attach, "attach", false, "volumes are attached to one node before use")
	flag.DurationVar(&d.delay, "snapshot-delay", 0, "time until a snapshot is ready to use")
	endpoint := flag.String("endpoint", "", "path of the driver's socket")
	registrationSocket := flag.String("registration", "", "path of the kubelet's registration socket for it")
	flag.Parse()

	for _, kind := range []string{"volumes", "snapshots"} {
		if err := os.MkdirAll(filepath.Join(d.data, kind), 0o755); err != nil {
			log.Fatal(err)
		}
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(logCalls))
	csi.RegisterIdentityServer(server, d)
	csi.RegisterControllerServer(server, d)
	csi.RegisterNodeServer(server, d)
	socket := listen(*endpoint)
	if *registrationSocket != "" {
		r := grpc.NewServer()
		registration.RegisterRegistrationServer(r, registrar{name: d.name, endpoint: *endpoint})
		go func() { log.Fatal(r.Serve(listen(*registrationSocket))) }()
	}
	log.Fatal(server.Serve(socket))
}
