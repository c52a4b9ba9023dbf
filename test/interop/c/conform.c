// conform runs one case of the conformance list with the official C client:
//
//	conform CASE URL [user password | token | NKEY SEEDFILE]
//
// It exits 0 if the server did what nats-server does, or says on standard error what
// it did instead. The cases that want something done to the server print "ready" when
// it may be done. natsc_test.go starts all.

#include <nats/nats.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

enum { WAIT = 20000 }; // milliseconds; only a case that fails waits so long

static natsConnection *nc;
static natsOptions *opts;
static sem_t reconnected, lame_duck, closed, refused;
static char refusal[256]; // the last error that the server sent, before refused is posted

static void fail(const char *what, natsStatus s) {
    fprintf(stderr, "%s: %s %s\n", what, natsStatus_GetText(s), nats_GetLastError(NULL));
    exit(1);
}

static void must(const char *what, natsStatus s) {
    if (s != NATS_OK)
        fail(what, s);
}

static void expect(const char *what, int holds) {
    if (!holds)
        fail(what, NATS_OK);
}

static void await(const char *what, sem_t *sem) {
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += WAIT / 1000;
    if (sem_timedwait(sem, &end) != 0)
        fail(what, NATS_TIMEOUT);
}

static void post(natsConnection *c, void *sem) { sem_post(sem); }

static void on_error(natsConnection *c, natsSubscription *s, natsStatus err, void *closure) {
    const char *text = "";
    natsConnection_GetLastError(c, &text);
    snprintf(refusal, sizeof refusal, "%s", text);
    sem_post(&refused);
}

// next is the data of a subscription's next message, which must be there.
static natsMsg *next(natsSubscription *sub, const char *want) {
    natsMsg *m = NULL;
    must(want, natsSubscription_NextMsg(&m, sub, WAIT));
    expect(want, strcmp(natsMsg_GetData(m), want) == 0);
    return m;
}

static natsSubscription *subscribe(const char *subject) {
    natsSubscription *sub = NULL;
    must(subject, natsConnection_SubscribeSync(&sub, nc, subject));
    must("flush", natsConnection_Flush(nc));
    return sub;
}

static void publish(const char *subject, const char *text) { must(subject, natsConnection_PublishString(nc, subject, text)); }

static void echo(natsConnection *c, natsSubscription *sub, natsMsg *m, void *closure) {
    natsConnection_Publish(c, natsMsg_GetReply(m), natsMsg_GetData(m), natsMsg_GetDataLength(m));
    natsMsg_Destroy(m);
}

static void test_pubsub(void) {
    natsSubscription *one = subscribe("a.*"), *all = subscribe("a.>");
    publish("a.b", "hello");
    publish("a.b.c", "deep");
    natsMsg *m = next(one, "hello");
    expect("subject", strcmp(natsMsg_GetSubject(m), "a.b") == 0);
    next(all, "hello");
    next(all, "deep");
    publish("a.z", "");
    next(one, "");
}

static void test_headers(void) {
    natsSubscription *sub = subscribe("h");
    natsMsg *m = NULL;
    const char *v = NULL;
    must("message", natsMsg_Create(&m, "h", "r", "body", 4));
    must("header", natsMsgHeader_Set(m, "Key", "value"));
    must("publish", natsConnection_PublishMsg(nc, m));
    m = next(sub, "body");
    must("header", natsMsgHeader_Get(m, "Key", &v));
    expect("header", strcmp(v, "value") == 0 && strcmp(natsMsg_GetReply(m), "r") == 0);
}

static void test_request(void) {
    natsSubscription *sub = NULL;
    natsMsg *m = NULL;
    must("subscribe", natsConnection_Subscribe(&sub, nc, "service", echo, NULL));
    for (int i = 0; i < 100; i++) {
        must("request", natsConnection_RequestString(&m, nc, "service", "ping", WAIT));
        expect("reply", strcmp(natsMsg_GetData(m), "ping") == 0);
        natsMsg_Destroy(m);
    }
}

static void test_noresponders(void) {
    natsMsg *m = NULL;
    expect("no responders", natsConnection_RequestString(&m, nc, "nobody", "ping", WAIT) == NATS_NO_RESPONDERS);
}

static void test_queue(void) {
    natsSubscription *member[3], *all = subscribe("q");
    for (int i = 0; i < 3; i++)
        must("queue", natsConnection_QueueSubscribeSync(&member[i], nc, "q", "group"));
    for (int i = 0; i < 300; i++)
        publish("q", "x");
    must("flush", natsConnection_Flush(nc));
    int sum = 0, seen = 0;
    for (int i = 0; i < 3; i++) {
        must("count", natsSubscription_GetPending(member[i], &seen, NULL));
        expect("each member has some", seen > 0);
        sum += seen;
    }
    expect("the group has each once", sum == 300);
    must("count", natsSubscription_GetPending(all, &seen, NULL));
    expect("the other has all", seen == 300);
}

static void test_autounsubscribe(void) {
    natsSubscription *sub = subscribe("auto");
    natsMsg *m = NULL;
    must("unsubscribe", natsSubscription_AutoUnsubscribe(sub, 2));
    for (int i = 0; i < 5; i++)
        publish("auto", "x");
    must("flush", natsConnection_Flush(nc));
    next(sub, "x");
    next(sub, "x");
    expect("no third", natsSubscription_NextMsg(&m, sub, 1) != NATS_OK);
    expect("nobody is left", natsConnection_RequestString(&m, nc, "auto", "", WAIT) == NATS_NO_RESPONDERS);
}

static void count(natsConnection *c, natsSubscription *sub, natsMsg *m, void *n) {
    ++*(int *)n;
    natsMsg_Destroy(m);
}

static void test_drain(void) {
    natsSubscription *sub = NULL;
    int seen = 0;
    must("subscribe", natsConnection_Subscribe(&sub, nc, "d", count, &seen));
    for (int i = 0; i < 1000; i++)
        publish("d", "x");
    must("drain", natsConnection_Drain(nc));
    await("closed", &closed);
    expect("all was delivered", seen == 1000);
}

static void test_maxpayload(void) {
    int64_t limit = natsConnection_GetMaxPayload(nc);
    char *data = calloc(1, limit + 1);
    natsSubscription *sub = subscribe("big");
    natsMsg *m = NULL;
    expect("INFO", limit == 4096); // as the configuration says
    expect("too big", natsConnection_Publish(nc, "big", data, limit + 1) == NATS_MAX_PAYLOAD);
    must("just so", natsConnection_Publish(nc, "big", data, limit));
    must("just so", natsSubscription_NextMsg(&m, sub, WAIT));
    expect("all of it", natsMsg_GetDataLength(m) == limit);
}

static void test_permissions(void) {
    natsSubscription *sub = NULL;
    publish("forbidden", "x");
    await("publish", &refused);
    expect(refusal, strcasecmp(refusal, "permissions violation for publish to \"forbidden\"") == 0);
    must("subscribe", natsConnection_SubscribeSync(&sub, nc, "forbidden.too"));
    await("subscribe", &refused);
    expect(refusal, strcasecmp(refusal, "permissions violation for subscription to \"forbidden.too\"") == 0);
    test_pubsub();
}

static void test_reconnect(void) {
    natsSubscription *sub = subscribe("r");
    publish("r", "before");
    next(sub, "before");
    printf("ready\n");
    fflush(stdout);
    await("reconnect", &reconnected);
    publish("r", "after");
    next(sub, "after");
}

static void test_lameduck(void) {
    printf("ready\n");
    fflush(stdout);
    await("lame duck mode", &lame_duck);
}

static void test_refused(void) {} // main has seen it

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"pubsub", test_pubsub}, {"headers", test_headers}, {"request", test_request}, {"noresponders", test_noresponders},
    {"queue", test_queue}, {"autounsubscribe", test_autounsubscribe}, {"drain", test_drain}, {"maxpayload", test_maxpayload},
    {"permissions", test_permissions}, {"reconnect", test_reconnect}, {"lameduck", test_lameduck}, {"refused", test_refused},
};

static void configure(int argc, char **argv) {
    must("options", natsOptions_Create(&opts));
    must("url", natsOptions_SetURL(opts, argv[2]));
    must("reconnect", natsOptions_SetReconnectWait(opts, 20));
    must("reconnect", natsOptions_SetMaxReconnect(opts, 1000));
    must("reconnect", natsOptions_SetReconnectedCB(opts, post, &reconnected));
    must("lame duck", natsOptions_SetLameDuckModeCB(opts, post, &lame_duck));
    must("closed", natsOptions_SetClosedCB(opts, post, &closed));
    must("errors", natsOptions_SetErrorHandler(opts, on_error, NULL));
    if (argc == 5 && argv[3][0] == 'U')
        must("nkey", natsOptions_SetNKeyFromSeed(opts, argv[3], argv[4]));
    else if (argc == 5)
        must("user", natsOptions_SetUserInfo(opts, argv[3], argv[4]));
    else if (argc == 4)
        must("token", natsOptions_SetToken(opts, argv[3]));
}

int main(int argc, char **argv) {
    for (size_t i = 0; argc >= 3 && i < sizeof cases / sizeof *cases; i++) {
        if (strcmp(argv[1], cases[i].name) != 0)
            continue;
        sem_init(&reconnected, 0, 0);
        sem_init(&lame_duck, 0, 0);
        sem_init(&closed, 0, 0);
        sem_init(&refused, 0, 0);
        configure(argc, argv);
        natsStatus s = natsConnection_Connect(&nc, opts);
        if (cases[i].run == test_refused)
            return s != NATS_CONNECTION_AUTH_FAILED;
        must("connect", s);
        cases[i].run();
        return 0;
    }
    fprintf(stderr, "usage: conform CASE URL [user password | token | NKEY SEEDFILE]\n");
    return 2;
}
