package tester

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/leafd/leafd/internal/testkit"
	"github.com/nats-io/nats.go"
	"github.com/synadia-io/orbit.go/ntf-client/api"
)

// Refusal is how the answer begins to who wants a cluster, JetStream or a capture.
const Refusal = "there is none here: "

// Tester starts, stops and reloads servers for those who ask.
type Tester struct {
	t   testkit.T // static
	bin string    // static: the program, named nats-server
	url string    // static: where requests are taken

	mu      sync.Mutex         // one request at a time
	servers map[string]*server // guarded by mu; by name, which is also the instance
	count   int                // guarded by mu; of servers ever asked for
}

// Start returns a tester that serves the program at bin until the test ends. What
// is left of its servers then ends as well.
func Start(t testkit.T, bin string) *Tester {
	t.Helper()
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(testkit.StartHub(t, testkit.HubOptions{}).ClientURL(), "nats://"))
	tr := &Tester{t: t, bin: bin, url: "nats://localhost:" + port, servers: map[string]*server{}} // the name in the certificates
	nc, err := nats.Connect(tr.url)
	if err != nil {
		t.Fatalf("tester: %v", err)
	}
	t.Cleanup(func() {
		nc.Close()
		tr.mu.Lock()
		defer tr.mu.Unlock()
		for _, s := range tr.servers {
			s.Stop()
		}
	})
	refuse := func(what string) func([]byte) (any, error) {
		return func([]byte) (any, error) { return nil, errors.New(Refusal + what) }
	}
	for subject, answer := range map[string]func([]byte) (any, error){
		"create.server":        tr.create,
		"create.cluster":       refuse("clusters"),
		"create.super-cluster": refuse("clusters"),
		"start.server":         tr.named(func(s *server, _ []byte) (any, error) { return api.StartServerResponse{Started: true}, s.Start() }),
		"stop.server":          tr.named(func(s *server, _ []byte) (any, error) { s.Stop(); return api.StopServerResponse{Shutdown: true}, nil }),
		"update.server":        tr.named(update),
		"reload.server":        tr.named(func(s *server, _ []byte) (any, error) { return api.ReloadServerResponse{Reloaded: true}, s.Reload() }),
		"status":               tr.status,
		"destroy":              tr.destroy,
	} {
		if _, err := nc.Subscribe("tester."+subject, func(m *nats.Msg) { tr.answer(m, answer) }); err != nil {
			t.Fatalf("tester: %v", err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatalf("tester: %v", err)
	}
	return tr
}

// URL is what TESTER_NATS_URL is to be.
func (tr *Tester) URL() string { return tr.url }

// answer sends what the handler returns, in the form of a NATS service.
func (tr *Tester) answer(m *nats.Msg, handle func([]byte) (any, error)) {
	tr.mu.Lock()
	v, err := handle(m.Data)
	tr.mu.Unlock()
	reply := nats.NewMsg(m.Reply)
	if err == nil {
		reply.Data, err = json.Marshal(v)
	}
	if err != nil {
		reply.Header.Set("Nats-Service-Error", err.Error())
		reply.Header.Set("Nats-Service-Error-Code", "400")
	}
	if err := m.RespondMsg(reply); err != nil {
		tr.t.Logf("tester: answer %s: %v", m.Subject, err)
	}
}

func (tr *Tester) create(data []byte) (any, error) {
	var req api.CreateServerRequest
	if err := json.Unmarshal(data, &req); err != nil {
		return nil, err
	}
	if req.JetStream || req.Trace || req.Template != "" {
		return nil, errors.New(Refusal + "JetStream, captures, templates")
	}
	tr.count++
	s := &server{name: fmt.Sprintf("s%d", tr.count), about: req.Description, snippets: req.Snippets, ports: map[string]int{}}
	s.Program = Program{Bin: tr.bin, Dir: tr.t.TempDir(), Port: testkit.Port(tr.t)}
	s.Args = []string{"-c", s.configPath()}
	for _, listener := range []string{"websocket", "mqtt", "leafnode"} {
		if _, asked := req.Snippets[listener]; asked {
			s.ports[listener] = testkit.Port(tr.t)
		}
	}
	resp := api.CreateResponse{ID: s.name, Description: req.Description, Kind: "server"}
	if req.TLS != nil {
		var err error
		if s.tls, resp.TLS, err = makeTLS(s.Dir, *req.TLS); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(s.configure(), s.Start()); err != nil {
		return nil, err
	}
	tr.servers[s.name] = s
	resp.Servers = []*api.ManagedServer{s.state()}
	return resp, nil
}

// named is a handler of a request for one server.
func (tr *Tester) named(handle func(*server, []byte) (any, error)) func([]byte) (any, error) {
	return func(data []byte) (any, error) {
		var req struct {
			Name     string `json:"name"`
			Instance string `json:"instance_id"`
		}
		if err := json.Unmarshal(data, &req); err != nil {
			return nil, err
		}
		s := tr.servers[req.Name+req.Instance]
		if s == nil {
			return nil, fmt.Errorf("no server %q", req.Name+req.Instance)
		}
		return handle(s, data)
	}
}

// update writes the configuration anew; what the request leaves out is as it comes.
func update(s *server, data []byte) (any, error) {
	var req api.UpdateServerRequest
	if err := json.Unmarshal(data, &req); err != nil {
		return nil, err
	}
	s.snippets = req.Snippets
	if req.TLSTimeout != nil && s.tls != nil {
		s.tls.timeout = *req.TLSTimeout
	}
	return api.UpdateServerResponse{Updated: true}, s.configure()
}

func (tr *Tester) status(data []byte) (any, error) {
	return tr.named(func(s *server, _ []byte) (any, error) {
		return api.StatusResponse{Instances: []api.InstanceStatus{{ID: s.name, Kind: "server", Description: s.about, Servers: []api.ManagedServer{*s.state()}}}}, nil
	})(data)
}

func (tr *Tester) destroy(data []byte) (any, error) {
	return tr.named(func(s *server, _ []byte) (any, error) {
		s.Stop()
		delete(tr.servers, s.name)
		return api.DestroyResponse{Destroyed: true}, nil
	})(data)
}
