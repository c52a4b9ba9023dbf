package leaf

import (
	"encoding/json"
	"net"
	"runtime"
	"strconv"
)

// ProtocolVersion is the nats-server release whose behaviour this package is
// tested against; clients switch features by it.
const ProtocolVersion = "2.15.2"

// Connect is what a client says of itself. (NATS client protocol, CONNECT.)
type Connect struct {
	Verbose      bool   `json:"verbose"`
	Pedantic     bool   `json:"pedantic"`
	Echo         *bool  `json:"echo"` // absent means true
	Headers      bool   `json:"headers"`
	NoResponders bool   `json:"no_responders"`
	Name         string `json:"name"`
	Lang         string `json:"lang"`
	Version      string `json:"version"`
	Protocol     int    `json:"protocol"`
	User         string `json:"user"`
	Pass         string `json:"pass"`
	Token        string `json:"auth_token"`
	TLSRequired  bool   `json:"tls_required"`
}

func parseConnect(arg []byte) (*Connect, error) {
	c := &Connect{Verbose: true, Pedantic: true} // unless it says otherwise
	if err := json.Unmarshal(arg, c); err != nil {
		return nil, &ProtoError{Text: "Parser Error", Detail: "CONNECT: " + err.Error(), Fatal: true}
	}
	if c.Protocol < 0 || c.Protocol > 1 {
		return nil, &ProtoError{Text: "invalid client protocol", Fatal: true}
	}
	if c.NoResponders && !c.Headers {
		return nil, &ProtoError{Text: "no responders requires headers support", Fatal: true}
	}
	return c, nil
}

// clientInfo is the INFO line to a client. (NATS client protocol, INFO.)
type clientInfo struct {
	ServerID     string `json:"server_id"`
	ServerName   string `json:"server_name"`
	Version      string `json:"version"`
	Proto        int    `json:"proto"`
	Go           string `json:"go"`
	Host         string `json:"host"`
	Port         int    `json:"port"`
	Headers      bool   `json:"headers"`
	AuthRequired bool   `json:"auth_required,omitempty"`
	MaxPayload   int    `json:"max_payload"`
	ClientID     uint64 `json:"client_id"`
	ClientIP     string `json:"client_ip,omitempty"`
}

func (s *Server) infoLine(cid uint64, nc net.Conn) []byte {
	info := clientInfo{ServerID: s.opts.ServerID, ServerName: s.opts.ServerName, Version: ProtocolVersion, Proto: 1,
		Go: runtime.Version(), Headers: true, AuthRequired: s.opts.Authenticate != nil,
		MaxPayload: s.opts.MaxPayload, ClientID: cid}
	info.Host, info.Port = splitAddr(nc.LocalAddr())
	info.ClientIP, _ = splitAddr(nc.RemoteAddr())
	b, err := json.Marshal(info)
	if err != nil {
		panic("leaf: INFO does not marshal: " + err.Error())
	}
	return append(append([]byte("INFO "), b...), "\r\n"...)
}

func splitAddr(a net.Addr) (host string, port int) {
	if a == nil {
		return "", 0
	}
	host, p, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String(), 0
	}
	port, _ = strconv.Atoi(p)
	return host, port
}
