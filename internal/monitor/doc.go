// Package monitor answers questions about a running leafd over HTTP: is it well
// (/healthz), what does it do (/varz, /connz and the rest, with nats-server's names, so
// that its tools can read it), how does it stand with the hub (/uplinkz), and all of that
// in numbers (/metrics, in the text format of Prometheus). The same answers go to
// requests on $SYS subjects, which the daemon receives. It imports only the
// standard library and none of leafd's packages: the daemon hands it functions that
// fill in the structs of snapshot.go.
//
// Call [New] for a [Monitor], which is the handler of all pages, and [Serve] to answer on
// a listener until its context ends; [Monitor.AnswerServer] and [Monitor.AnswerAccount]
// answer system requests.
//
// # Concurrency
//
// The snapshot functions of [Options] are called once for each request, on its
// goroutine, and by several requests at once. Between requests nothing runs.
//
// # Promises
//
// No answer holds a secret: what is shown of a URL has no user and no password, if
// the daemon fills [Remote].URL as told. A stranger costs a bounded amount: few
// connections at once, small headers, a few seconds to send them. Nothing can be
// changed here: only GET and HEAD are answered.
//
// Reading order: monitor.go, pages.go (all pages), query.go (their parameters), varz.go,
// snapshot.go, connz.go, subsz.go, leafz.go, accountz.go, healthz.go, absent.go (what a
// gateway has not), sys.go and events.go (system requests and events), subject.go,
// metrics.go, process.go, flash.go, serve.go.
package monitor
