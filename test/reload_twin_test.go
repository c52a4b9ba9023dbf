package test

import (
	"fmt"
	"testing"
)

// members is a configuration with users of the global account.
func members(users ...string) string {
	all := "authorization { users: [\n"
	for _, u := range users {
		all += u + "\n"
	}
	return all + "] }\n"
}

// member is a user with the password p, and permissions unless they are empty.
func member(name, permissions string) string {
	if permissions != "" {
		permissions = ", permissions: { " + permissions + " }"
	}
	return fmt.Sprintf("  { user: %s, password: p%s }", name, permissions)
}

// A reload is heard by those it concerns in the words of nats-server, and by nobody else.
func TestTwinReload(t *testing.T) {
	key := fmt.Sprintf("  { nkey: %s }", twinUser)
	free := member("free", "")
	all := members(free, member("u", ""), key)
	showKey := fmt.Sprintf("CONNECT {\"verbose\":false,\"nkey\":%q,\"sig\":\"{sig}\"}\r\n", twinUser)
	three := "SUB a.> 1\r\nSUB b.> q 2\r\nSUB c 3\r\n"
	two := "SUB a.> 1\r\nSUB c 3\r\n" // nobody else in the queue group
	say := "PUB a.x 1\r\n1\r\nPUB b.x 1\r\n2\r\nPUB c 1\r\n3\r\n"
	inAccount := func(a, b string) string {
		return fmt.Sprintf("accounts { A { users: [ %s ] }, B { users: [ { user: other, password: p } %s ] } }\n", a, b)
	}
	w := startTwins(t, all)
	for _, c := range []struct {
		name   string
		script []step
	}{
		{"a user is removed", []step{{reload, all}, {"f", as("free") + two}, {"u", as("u") + three}, {reload, members(free, key)}, {"f", say}, {"v", as("u")}}},
		{"an nkey is removed", []step{{reload, all}, {"f", as("free") + two}, {"k", showKey + three}, {reload, members(free, member("u", ""))}, {"f", say}}},
		{"a password is changed", []step{{reload, all}, {"f", as("free") + two}, {"u", as("u") + three},
			{reload, members(free, "{ user: u, password: other }")}, {"f", say}, {"v", as("u")}, {"x", login("u", "other") + three}}},
		{"a subscription is forbidden", []step{{reload, all}, {"f", as("free") + two}, {"u", as("u") + three}, {"k", showKey + two},
			{reload, members(free, key, member("u", `subscribe: [ "b.>", "c" ]`))}, {"f", say}, {"u", "SUB a.x 4\r\n"}}},
		{"a member of a queue is forbidden", []step{{reload, all}, {"f", as("free")}, {"u", as("u") + three},
			{reload, members(free, key, member("u", `subscribe: { deny: "b.> q" }`))}, {"f", say}, {"u", "SUB b.> r 4\r\n"}, {"f", say}}},
		{"a subject is denied under a subscription", []step{{reload, all}, {"f", as("free")}, {"u", as("u") + three},
			{reload, members(free, key, member("u", `subscribe: { deny: "a.x" }`))}, {"f", say + "PUB a.y 1\r\n4\r\n"}}},
		{"what was forbidden is allowed", []step{{reload, members(free, member("u", `subscribe: "c", publish: "c"`))}, {"f", as("free") + "SUB a.x 1\r\n"}, {"u", as("u") + three + say},
			{reload, all}, {"f", say}, {"u", three + say}}},
		{"publishing is forbidden", []step{{reload, all}, {"f", as("free") + two}, {"u", as("u") + say},
			{reload, members(free, member("u", `publish: { deny: "b.*" }`))}, {"u", say + say}, {reload, all}, {"u", say}}},
		{"answers are allowed no more", []step{{reload, members(free, member("u", `publish: "z", allow_responses: { max: 9 }`))}, {"f", as("free") + "SUB in.* 1\r\n"}, {"u", as("u") + three},
			{"f", "PUB a.x in.1 1\r\n1\r\n"}, {"u", "PUB in.1 1\r\n2\r\n"}, {reload, members(free, member("u", `publish: "z"`))}, {"u", "PUB in.1 1\r\n3\r\n"}}},
		{"nothing changes for it", []step{{reload, all}, {"f", as("free") + two}, {"u", as("u") + three}, {reload, all + "max_payload: 500KB\n"}, {"f", say}, {reload, all}}},
		{"a user moves to another account", []step{{reload, inAccount("{ user: u, password: p }, { user: free, password: p }", "")}, {"f", as("free") + two}, {"u", as("u") + three}, {"o", as("other") + two},
			{reload, inAccount("{ user: free, password: p }", ", { user: u, password: p }")}, {"f", say}, {"v", as("u") + three}, {"o", say}}},
		{"an account is removed", []step{{reload, inAccount("{ user: u, password: p }", "")}, {"u", as("u") + three}, {"o", as("other") + two},
			{reload, "accounts { B { users: [ { user: other, password: p } ] } }\n"}, {"o", say}, {"v", as("u")}}},
		{"a token changes", []step{{reload, "authorization { token: t }\n"}, {"u", "CONNECT {\"verbose\":false,\"auth_token\":\"t\"}\r\n" + three}, {reload, "authorization { token: s }\n"}, {"v", "CONNECT {\"verbose\":false,\"auth_token\":\"t\"}\r\n"}}},
		{"everybody is asked now", []step{{reload, ""}, {"n", "CONNECT {\"verbose\":false}\r\n" + three}, {reload, all}, {"u", as("u") + three}}},
	} {
		w.run(c.name, c.script...)
	}
}
