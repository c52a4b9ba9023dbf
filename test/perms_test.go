package test

import (
	"testing"
)

func as(user string) string { return login(user, "p") }

func TestTwinPermissions(t *testing.T) {
	w := startTwins(t, `authorization {
  default_permissions { publish: "any.*", subscribe: [ "any.>", "_INBOX.>" ] }
  users: [
    { user: free, password: p, permissions: { } }
    { user: plain, password: p }
    { user: deny, password: p, permissions: { publish: { deny: [ "x", "y.*" ] }, subscribe: { deny: [ "x", "y.*.z", "q.a w", "r.> v*" ] } } }
    { user: both, password: p, permissions: { publish: { allow: [ "a.>" ], deny: "a.b" }, subscribe: { allow: "a.>", deny: [ "a.b", "a.*.c" ] } } }
    { user: queue, password: p, permission: { subscribe: { allow: [ "only v1", "only v2.*", "or", "or dev", "s.* *", "t.> >" ] } } }
    { user: reply, password: p, permissions: { subscribe: "svc.>", allow_responses: true } }
    { user: twice, password: p, permissions: { publish: "z", subscribe: "svc.>", allow_responses: { max: 2, expires: "1m" } } }
    { user: ever, password: p, permissions: { publish: { allow: "z", deny: "in.3" }, subscribe: "svc.>", allow_responses: { max: -1 } } }
  ]
}`)
	for _, c := range []struct {
		name   string
		script []step
	}{
		{"free", []step{{"a", as("free") + "SUB > 1\r\nPUB x 1\r\na\r\nPUB y.1 1\r\nb\r\n"}}},
		{"publish", []step{{"f", as("free") + "SUB > 1\r\n"}, {"a", as("plain") + "PUB any.1 1\r\na\r\nPUB any 1\r\nb\r\nPUB any.1.2 1\r\nc\r\nPUB other 1\r\nd\r\nPUB any.2 r 1\r\ne\r\n"},
			{"b", as("deny") + "PUB x 1\r\na\r\nPUB y 1\r\nb\r\nPUB y.1 1\r\nc\r\nPUB y.1.2 1\r\nd\r\nPUB y.1 1\r\ne\r\nPUB y.1 1\r\nf\r\n"},
			{"c", as("both") + "PUB a.b 1\r\na\r\nPUB a.c 1\r\nb\r\nPUB b 1\r\nc\r\nPUB a.b 1\r\nd\r\nPUB a.b.c 1\r\ne\r\nPUB a 1\r\nf\r\n"}}},
		{"subscribe", []step{{"a", as("plain") + "SUB any 1\r\nSUB any.a 2\r\nSUB any.> 3\r\nSUB any.*.b 4\r\nSUB * 5\r\nSUB > 6\r\nSUB any.a q 7\r\nSUB x q 8\r\n"},
			{"b", as("deny") + "SUB x 1\r\nSUB x q 2\r\nSUB y.1.z 3\r\nSUB y.*.z 4\r\nSUB y.> 5\r\nSUB > 6\r\nSUB q.a 7\r\nSUB q.a w 8\r\nSUB q.a v 9\r\nSUB q.* w 10\r\nSUB r.a v 11\r\nSUB r.a v* 12\r\nSUB r.a u 13\r\n"},
			{"f", as("free") + "PUB x 1\r\na\r\nPUB y.1.z 1\r\nb\r\nPUB y.1 1\r\nc\r\nPUB any.a 1\r\nd\r\nPUB any.a.b 1\r\ne\r\n"}}},
		{"denied by a wildcard", []step{{"b", as("deny") + "SUB y.> 5\r\nSUB > 6\r\n"}, {"d", as("both") + "SUB a.> 1\r\nSUB a.* q 2\r\nSUB a.*.* 3\r\n"},
			{"f", as("free") + "PUB x 1\r\na\r\nPUB y.1.z 1\r\nb\r\nPUB y.1 1\r\nc\r\nPUB a.b 1\r\nd\r\nPUB a.c 1\r\ne\r\nPUB a.x.c 1\r\nf\r\nPUB a.b 1\r\nd\r\nPUB a.b 1\r\nd\r\n"}}},
		{"denied in a queue", []step{{"b", as("deny") + "SUB q.* w 1\r\n"}, {"f", as("free") + "PUB q.a 1\r\na\r\nPUB q.b 1\r\nb\r\nPUB q.a 1\r\nc\r\n"},
			{"g", as("free") + "SUB q.* w 1\r\n"}, {"f", "PUB q.a 1\r\na\r\nPUB q.a 1\r\nb\r\nPUB q.a 1\r\nc\r\nPUB q.a 1\r\nd\r\n"}}},
		{"allowed in a queue", []step{{"a", as("queue") + "SUB only 1\r\nSUB only v1 2\r\nSUB only v2 3\r\nSUB only v2.x 4\r\nSUB or 5\r\nSUB or dev 6\r\nSUB or x 7\r\nSUB s.1 8\r\nSUB s.1 q 9\r\nSUB s.1 q.r 10\r\nSUB t.1 q.r 11\r\nSUB t.> q 12\r\nSUB t.> q.r 13\r\n"}}},
		{"one answer", []step{{"r", as("reply") + "SUB svc.> 1\r\nSUB other 2\r\nPUB in.1 1\r\n-\r\n"}, {"f", as("free") + "SUB in.* 1\r\nPUB svc.a in.1 1\r\na\r\nPUB svc.a 1\r\nb\r\n"},
			{"r", "PUB in.1 1\r\na\r\nPUB in.1 1\r\nb\r\nPUB in.2 1\r\nc\r\nPUB svc.a 1\r\nd\r\n"}, {"f", "PUB svc.a in.4 1\r\na\r\n"}, {"r", "PUB in.4 1\r\na\r\nPUB in.4 1\r\nb\r\n"}}},
		{"two answers", []step{{"r", as("twice") + "SUB svc.> q 1\r\n"}, {"f", as("free") + "SUB in.* 1\r\nPUB svc.a in.1 1\r\na\r\n"},
			{"r", "PUB z 1\r\n-\r\nPUB in.1 1\r\na\r\nPUB z 1\r\n-\r\nPUB in.1 1\r\nb\r\nPUB in.1 1\r\nc\r\n"}}},
		{"any answers", []step{{"r", as("ever") + "SUB svc.> 1\r\n"}, {"f", as("free") + "SUB in.* 1\r\nPUB svc.a in.1 1\r\na\r\nPUB svc.a in.3 1\r\na\r\n"},
			{"r", "PUB in.1 1\r\na\r\nPUB in.1 1\r\nb\r\nPUB in.1 1\r\nc\r\nPUB in.3 1\r\nd\r\n"}}},
		{"verbose", []step{{"a", `CONNECT {"verbose":true,"user":"plain","pass":"p"}` + "\r\nPUB other 1\r\na\r\nSUB other 1\r\nPUB any.1 1\r\na\r\n"}}},
	} {
		w.run(c.name, c.script...)
	}
}
