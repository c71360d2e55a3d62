/* Paced worker and load client for the overhead benchmark: one program, two processes.
 *
 *   driver worker [--events N] [--gap-us G]
 *       Listens on a free loopback port and prints "listening PORT".  Streams like vLLM: a role event,
 *       N token events G microseconds apart, a finish event, a usage event if asked for, [DONE].
 *       Each event is one chunk and one write.  `max_tokens` in a request sets N for that request;
 *       POST /bench/pace?gap_us=G sets G from then on, so no proxy has to pass a special header.
 *
 *   driver client --port P --mode stream|json --connections C [--events N] [--warm-ms W]
 *                 [--window-ms D] [--stagger-us S] [--grace-ms X] [--rest-us R] [--include-usage]
 *                 [--worker-pid PID]
 *       Keeps C requests open in a closed loop over keep-alive connections.  Prints "begin" and "end"
 *       around the measured window, then one line of JSON.  Times in it are microseconds.
 *
 * Both must cost far less than what they measure, hence C, no copies of events, one clock reading per
 * read, and no lookups: a token event is recognised by one comparison at a remembered place.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/time_types.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_US 1000ULL
#define NS_PER_MS 1000000ULL
#define NS_PER_S 1000000000ULL
#define BATCH 512             /* ready descriptors taken, or events written, before looking around again */
#define REQUEST_BYTES 8192    /* a request with every header a gateway may add */
#define LINE_BYTES 4096       /* a response head, one SSE line or one small JSON body */
#define READ_BYTES 65536
#define MAX_SAMPLES (8u << 20)
#define MAX_ERRORS 1000       /* then the run is of no use, and stops */
#define RETRY_NS (20 * NS_PER_MS)

#define LITERAL(s) (s), (sizeof(s) - 1)

static void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("driver: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(2);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static uint64_t cpu_ns(clockid_t clock) {
    struct timespec t;
    if (clock_gettime(clock, &t) != 0) return 0;
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* Waits until something is ready or `until` (absolute, 0: for ever) has come. epoll_wait knows only
 * whole milliseconds, too coarse for pacing. */
static int wait_until(int ep, struct epoll_event *ready, uint64_t until) {
    struct __kernel_timespec wait = {0, 0};
    if (until) {
        uint64_t now = now_ns();
        uint64_t left = until > now ? until - now : 0;
        wait.tv_sec = (long long)(left / NS_PER_S);
        wait.tv_nsec = (long long)(left % NS_PER_S);
    }
    int count = (int)syscall(SYS_epoll_pwait2, ep, ready, BATCH, until ? &wait : NULL, NULL, 8);
    if (count < 0 && errno == ENOSYS) die("this benchmark needs Linux 5.11 or newer (epoll_pwait2)");
    if (count < 0 && errno != EINTR) die("epoll_pwait2: %s", strerror(errno));
    return count < 0 ? 0 : count;
}

static void watch(int ep, int fd, void *owner) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = owner};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event) != 0) die("epoll_ctl: %s", strerror(errno));
}

static void no_delay(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static struct sockaddr_in loopback(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

/* The value of a header, or NULL. `head` ends with a zero byte. */
static const char *header(const char *head, const char *name) {
    size_t length = strlen(name);
    for (const char *line = strchr(head, '\n'); line; line = strchr(line, '\n')) {
        line++;
        if (strncasecmp(line, name, length) == 0 && line[length] == ':') {
            const char *value = line + length + 1;
            while (*value == ' ') value++;
            return value;
        }
    }
    return NULL;
}

/* ------------------------------------------------------------------------------------ worker -- */

#define ID_DIGITS 16 /* of the 32 in "chatcmpl-…" that differ from stream to stream */
#define MODEL "bench-model"
#define CHUNK_PREFIX                                                                              \
    "data: {\"id\":\"chatcmpl-%016llx9a7c4e1b2d3f5068\",\"object\":\"chat.completion.chunk\","    \
    "\"created\":%ld,\"model\":\"" MODEL "\",\"choices\":["

struct stream {
    int fd;
    bool queued, dead;
    unsigned step, events; /* step 0: head and role; 1..events: tokens; then finish, usage, [DONE] */
    bool usage;
    uint64_t due;
    struct stream *next;
    const char *rest; /* what a full socket buffer did not take */
    size_t rest_bytes;
    size_t role_bytes, token_bytes, finish_bytes, usage_bytes;
    char role[768], token[512], finish[512], usage_text[512];
    size_t have;
    char request[REQUEST_BYTES];
};

static struct {
    int ep, listener;
    unsigned events;
    uint64_t gap_ns, serial;
    long created;
    struct stream *head, *tail; /* streams by due time; every gap is the same, so a queue is enough */
} W;

static void enqueue(struct stream *s) {
    s->queued = true;
    s->next = NULL;
    if (W.tail) W.tail->next = s; else W.head = s;
    W.tail = s;
}

static void drop(struct stream *s) {
    if (s->fd >= 0) close(s->fd);
    s->fd = -1;
    s->dead = true;
    if (!s->queued) free(s); /* otherwise when its turn comes */
}

/* Writes, and keeps what did not fit. False when the peer has gone. */
static bool put(struct stream *s, const char *bytes, size_t count) {
    ssize_t sent = send(s->fd, bytes, count, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
        if (errno != EAGAIN) return false;
        sent = 0;
    }
    s->rest = bytes + sent;
    s->rest_bytes = count - (size_t)sent;
    return true;
}

/* One HTTP chunk around one event. */
static size_t chunk(char *out, size_t room, const char *event) {
    int n = snprintf(out, room, "%zx\r\n%s\r\n", strlen(event), event);
    if (n < 0 || (size_t)n >= room) die("an event is too large");
    return (size_t)n;
}

static void open_stream(struct stream *s, unsigned events, bool usage) {
    char event[448], framed[512], prefix[256];
    snprintf(prefix, sizeof prefix, CHUNK_PREFIX, (unsigned long long)++W.serial, W.created);
    s->step = 0;
    s->events = events;
    s->usage = usage;
    snprintf(event, sizeof event,
             "%s{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
             "\"finish_reason\":null}]}\n\n", prefix);
    chunk(framed, sizeof framed, event);
    s->role_bytes = (size_t)snprintf(s->role, sizeof s->role,
        "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
        "transfer-encoding: chunked\r\n\r\n%s", framed);
    snprintf(event, sizeof event,
             "%s{\"index\":0,\"delta\":{\"content\":\" token\"},\"logprobs\":null,"
             "\"finish_reason\":null}]}\n\n", prefix);
    s->token_bytes = chunk(s->token, sizeof s->token, event);
    snprintf(event, sizeof event,
             "%s{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"length\","
             "\"stop_reason\":null}]}\n\n", prefix);
    s->finish_bytes = chunk(s->finish, sizeof s->finish, event);
    snprintf(event, sizeof event,
             "%s],\"usage\":{\"prompt_tokens\":12,\"total_tokens\":%u,\"completion_tokens\":%u}}\n\n",
             prefix, 12 + events, events);
    s->usage_bytes = chunk(s->usage_text, sizeof s->usage_text, event);
    s->due = now_ns();
}

/* Writes what is due of one stream and says when its next event is due, by putting it back.
 * False when the peer has gone. */
static bool advance(struct stream *s, uint64_t now) {
    static const char done[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
    if (s->rest_bytes) {
        if (!put(s, s->rest, s->rest_bytes)) return false;
    }
    while (!s->rest_bytes) {
        unsigned step = s->step++;
        bool alive;
        if (step == 0) alive = put(s, s->role, s->role_bytes);
        else if (step <= s->events) alive = put(s, s->token, s->token_bytes);
        else if (step == s->events + 1) alive = put(s, s->finish, s->finish_bytes);
        else if (step == s->events + 2) alive = !s->usage || put(s, s->usage_text, s->usage_bytes);
        else if (step == s->events + 3) alive = put(s, LITERAL(done));
        else return true; /* all written: wait for the next request */
        if (!alive) return false;
        if (step >= 1 && step < s->events) break;
    }
    /* A worker that is late goes on at its pace: a burst to catch up would be merged by proxies. */
    s->due += W.gap_ns;
    if (s->due < now) s->due = now + W.gap_ns;
    enqueue(s);
    return true;
}

static bool respond(struct stream *s, const char *status, const char *type, const char *body) {
    char out[2048];
    int n = snprintf(out, sizeof out,
                     "HTTP/1.1 %s\r\nserver: uvicorn\r\ncontent-type: %s\r\ncontent-length: %zu\r\n\r\n%s",
                     status, type, strlen(body), body);
    if (n < 0 || (size_t)n >= sizeof out) die("an answer is too large");
    return send(s->fd, out, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) == n;
}

static bool complete(struct stream *s) {
    char body[1024];
    snprintf(body, sizeof body,
        "{\"id\":\"chatcmpl-%016llx9a7c4e1b2d3f5068\",\"object\":\"chat.completion\",\"created\":%ld,"
        "\"model\":\"" MODEL "\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
        "\"content\":\"The overhead of a proxy is what it adds to the time and the processor cost of "
        "each request, and nothing else.\",\"refusal\":null,\"annotations\":null,\"audio\":null,"
        "\"function_call\":null,\"tool_calls\":[],\"reasoning\":null},\"logprobs\":null,"
        "\"finish_reason\":\"stop\",\"stop_reason\":null,\"token_ids\":null}],\"service_tier\":null,"
        "\"system_fingerprint\":null,\"usage\":{\"prompt_tokens\":12,\"total_tokens\":36,"
        "\"completion_tokens\":24,\"prompt_tokens_details\":null}}",
        (unsigned long long)++W.serial, W.created);
    return respond(s, "200 OK", "application/json", body);
}

static bool field_is_true(const char *body, size_t count, const char *name) {
    const char *at = memmem(body, count, name, strlen(name));
    if (!at) return false;
    at += strlen(name);
    while (at < body + count && (*at == ' ' || *at == ':')) at++;
    return body + count - at >= 4 && memcmp(at, "true", 4) == 0;
}

static unsigned field_number(const char *body, size_t count, const char *name, unsigned otherwise) {
    const char *at = memmem(body, count, name, strlen(name));
    if (!at) return otherwise;
    at += strlen(name);
    while (at < body + count && (*at == ' ' || *at == ':')) at++;
    unsigned value = 0;
    bool any = false;
    for (; at < body + count && *at >= '0' && *at <= '9'; at++, any = true)
        value = value * 10 + (unsigned)(*at - '0');
    return any && value > 0 ? value : otherwise;
}

/* Answers one request. False when the peer has gone. */
static bool answer(struct stream *s, const char *head, const char *body, size_t count) {
    if (strncmp(head, LITERAL("POST /v1/chat/completions")) == 0) {
        if (field_is_true(body, count, "\"stream\"")) {
            open_stream(s, field_number(body, count, "\"max_tokens\"", W.events),
                        field_is_true(body, count, "\"include_usage\""));
            return advance(s, s->due);
        }
        return complete(s);
    }
    if (strncmp(head, LITERAL("POST /bench/pace?gap_us=")) == 0) {
        W.gap_ns = strtoull(head + strlen("POST /bench/pace?gap_us="), NULL, 10) * NS_PER_US;
        return respond(s, "200 OK", "application/json", "{}");
    }
    if (strncmp(head, LITERAL("GET /v1/models")) == 0) {
        return respond(s, "200 OK", "application/json",
                "{\"object\":\"list\",\"data\":[{\"id\":\"" MODEL "\",\"object\":\"model\","
                "\"created\":1700000000,\"owned_by\":\"vllm\",\"root\":\"" MODEL "\",\"parent\":null,"
                "\"max_model_len\":32768,\"permission\":[]}]}");
    }
    if (strncmp(head, LITERAL("GET /health")) == 0 || strncmp(head, LITERAL("GET /ping")) == 0) {
        return respond(s, "200 OK", "text/plain", "");
    }
    if (strncmp(head, LITERAL("GET /version")) == 0) {
        return respond(s, "200 OK", "application/json", "{\"version\":\"0.32.0\"}");
    }
    if (strncmp(head, LITERAL("GET /metrics")) == 0) {
        return respond(s, "200 OK", "text/plain; version=0.0.4; charset=utf-8",
                "# TYPE vllm:num_requests_running gauge\n"
                "vllm:num_requests_running{engine=\"0\",model_name=\"" MODEL "\"} 0.0\n"
                "# TYPE vllm:num_requests_waiting gauge\n"
                "vllm:num_requests_waiting{engine=\"0\",model_name=\"" MODEL "\"} 0.0\n"
                "# TYPE vllm:kv_cache_usage_perc gauge\n"
                "vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"" MODEL "\"} 0.0\n");
    }
    return respond(s, "404 Not Found", "application/json", "{\"detail\":\"Not Found\"}");
}

static void receive(struct stream *s) {
    ssize_t got = recv(s->fd, s->request + s->have, REQUEST_BYTES - 1 - s->have, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) { drop(s); return; } /* gone: a worker aborts the stream at once */
    s->have += (size_t)got;
    s->request[s->have] = 0;
    while (s->have && !s->queued) {
        char *end = memmem(s->request, s->have, "\r\n\r\n", 4);
        if (!end) break;
        size_t head_bytes = (size_t)(end - s->request) + 4;
        char kept = *end;
        *end = 0;
        const char *length = header(s->request, "content-length");
        size_t body_bytes = length ? strtoul(length, NULL, 10) : 0;
        bool chunked = header(s->request, "transfer-encoding") != NULL;
        *end = kept;
        if (chunked || head_bytes + body_bytes >= REQUEST_BYTES) {
            respond(s, "411 Length Required", "text/plain", "send a short body with content-length");
            drop(s);
            return;
        }
        if (s->have < head_bytes + body_bytes) break;
        if (!answer(s, s->request, s->request + head_bytes, body_bytes)) { drop(s); return; }
        s->have -= head_bytes + body_bytes;
        memmove(s->request, s->request + head_bytes + body_bytes, s->have + 1);
    }
    if (s->have == REQUEST_BYTES - 1) drop(s);
}

static void accept_all(void) {
    int fd;
    while ((fd = accept4(W.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct stream *s = calloc(1, sizeof *s);
        if (!s) die("out of memory");
        s->fd = fd;
        no_delay(fd);
        watch(W.ep, fd, s);
    }
    if (errno == EMFILE) die("too few file descriptors: raise `ulimit -n`");
}

static _Noreturn void worker_main(void) {
    W.ep = epoll_create1(EPOLL_CLOEXEC);
    W.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    W.created = (long)time(NULL);
    struct sockaddr_in address = loopback(0);
    socklen_t size = sizeof address;
    if (bind(W.listener, (struct sockaddr *)&address, size) || listen(W.listener, 4096) ||
        getsockname(W.listener, (struct sockaddr *)&address, &size))
        die("cannot listen on loopback: %s", strerror(errno));
    watch(W.ep, W.listener, NULL);
    printf("listening %d\n", ntohs(address.sin_port));
    fflush(stdout);
    static struct epoll_event ready[BATCH];
    for (;;) {
        int count = wait_until(W.ep, ready, W.head ? W.head->due : 0);
        for (int i = 0; i < count; i++) {
            if (ready[i].data.ptr) receive(ready[i].data.ptr);
            else accept_all();
        }
        uint64_t now = now_ns();
        for (int i = 0; i < BATCH && W.head && W.head->due <= now; i++) {
            struct stream *s = W.head;
            W.head = s->next;
            if (!W.head) W.tail = NULL;
            s->queued = false;
            if (s->dead) free(s);
            else if (!advance(s, now)) drop(s);
        }
    }
}

/* ------------------------------------------------------------------------------------ client -- */

enum failure { CONNECT, STATUS, CLOSED, WRONG, PROTOCOL, UNFINISHED, FAILURES };
static const char *failure_names[FAILURES] = {
    "connect", "status", "closed_early", "wrong_events", "protocol", "unfinished"};

enum place { HEAD, SIZE, DATA, DATA_END, TRAILER, LENGTH, TO_CLOSE };

struct call {
    int fd;
    bool active, keep;
    enum place place;
    uint64_t left;            /* bytes left in this chunk or body */
    unsigned line_bytes_seen; /* of a trailer line */
    unsigned roles, tokens, finishes, usages, dones;
    uint64_t sent_at, last_at, start_at; /* start_at 0: not waiting to start */
    size_t have;
    char line[LINE_BYTES];
};

struct samples { uint32_t *tenth_us; size_t count; };

static struct {
    int ep, port;
    bool json, include_usage;
    uint64_t rest_ns; /* sleep as long before each round of reads: cheap, but then no stamp is true */
    unsigned connections, events;
    char request[1024];
    size_t request_bytes;
    struct call *calls;
    unsigned active;
    bool measuring, stopping;
    uint64_t next_start;
    unsigned long requests, tokens, reads, failures[FAILURES], failed;
    struct samples ttft, itl, latency;
} C;

static void sample(struct samples *to, uint64_t ns) {
    if (C.measuring && to->count < MAX_SAMPLES) to->tenth_us[to->count++] = (uint32_t)(ns / 100);
}

static void start_later(struct call *c, uint64_t at) {
    c->start_at = at;
    if (!C.next_start || at < C.next_start) C.next_start = at;
}

static void hang_up(struct call *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
}

static void fail(struct call *c, enum failure why) {
    C.failures[why]++;
    C.failed++;
    hang_up(c);
    if (c->active) C.active--;
    c->active = false;
    if (!C.stopping) start_later(c, now_ns() + RETRY_NS);
}

static void start(struct call *c) {
    c->start_at = 0;
    if (c->fd < 0) {
        struct sockaddr_in address = loopback(C.port);
        c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (c->fd < 0) die("socket: %s", strerror(errno));
        if (connect(c->fd, (struct sockaddr *)&address, sizeof address) != 0) { fail(c, CONNECT); return; }
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
        no_delay(c->fd);
        watch(C.ep, c->fd, c);
    }
    c->place = HEAD;
    c->have = 0;
    c->roles = c->tokens = c->finishes = c->usages = c->dones = 0;
    if (!c->active) C.active++;
    c->active = true;
    c->sent_at = now_ns();
    if (send(c->fd, C.request, C.request_bytes, MSG_NOSIGNAL) != (ssize_t)C.request_bytes) fail(c, CONNECT);
}

/* The whole response has been read. */
static void finish(struct call *c, uint64_t now) {
    bool right;
    if (C.json)
        right = memmem(c->line, c->have, LITERAL("\"object\":\"chat.completion\"")) != NULL &&
                c->line[c->have - 1] == '}';
    else
        right = c->roles == 1 && c->tokens == C.events && c->finishes == 1 && c->dones == 1 &&
                c->usages == (C.include_usage ? 1u : 0u);
    if (!right) { fail(c, WRONG); return; }
    sample(&C.latency, now - c->sent_at);
    if (C.measuring) C.requests++;
    C.active--;
    c->active = false;
    if (!c->keep) hang_up(c);
    if (!C.stopping) start(c);
}

/* One line of an event stream, without its end. False: something no worker sends. */
static bool on_line(struct call *c, const char *line, size_t count, uint64_t now) {
    static const char mark[] = "\"delta\":{\"content\":\"";
    static size_t place; /* where the mark was last time: ids have one length, so it hardly moves */
    const size_t mark_bytes = sizeof mark - 1;
    if (count && line[count - 1] == '\r') count--;
    if (count == 0 || line[0] == ':') return true;
    if (count < 6 || memcmp(line, "data: ", 6) != 0) return false;
    if (c->dones) return false;
    if (count < place + mark_bytes + 1 || memcmp(line + place, mark, mark_bytes) != 0) {
        const char *at = memmem(line, count, mark, mark_bytes);
        if (!at || (size_t)(at - line) + mark_bytes + 1 > count || at[mark_bytes] == '"') {
            if (count == 12 && memcmp(line + 6, "[DONE]", 6) == 0) c->dones++;
            else if (memmem(line, count, LITERAL("\"finish_reason\":\""))) c->finishes++;
            else if (memmem(line, count, LITERAL("\"choices\":[]"))) c->usages++;
            else if (memmem(line, count, LITERAL("\"role\":\"assistant\""))) c->roles++;
            else return false;
            return true;
        }
        place = (size_t)(at - line);
    }
    if (!c->roles || c->finishes) return false; /* out of order */
    if (c->tokens++ == 0) sample(&C.ttft, now - c->sent_at);
    else sample(&C.itl, now - c->last_at);
    c->last_at = now;
    if (C.measuring) C.tokens++;
    return true;
}

static bool keep(struct call *c, const char *bytes, size_t count) {
    if (c->have + count >= LINE_BYTES) return false;
    memcpy(c->line + c->have, bytes, count);
    c->have += count;
    return true;
}

/* Body bytes with the framing taken off. */
static bool on_body(struct call *c, const char *p, size_t count, uint64_t now) {
    if (C.json) return keep(c, p, count);
    const char *end = p + count;
    while (p < end) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        if (!stop) return keep(c, p, (size_t)(end - p));
        if (c->have) {
            if (!keep(c, p, (size_t)(stop - p))) return false;
            if (!on_line(c, c->line, c->have, now)) return false;
            c->have = 0;
        } else if (!on_line(c, p, (size_t)(stop - p), now)) {
            return false;
        }
        p = stop + 1;
    }
    return true;
}

/* Reads the status and the framing from a complete head. */
static enum failure on_head(struct call *c) {
    c->line[c->have] = 0;
    if (strncmp(c->line, LITERAL("HTTP/1.1 200")) != 0 && strncmp(c->line, LITERAL("HTTP/1.0 200")) != 0)
        return STATUS;
    const char *encoding = header(c->line, "transfer-encoding");
    const char *length = header(c->line, "content-length");
    const char *connection = header(c->line, "connection");
    c->keep = !(connection && strncasecmp(connection, "close", 5) == 0);
    if (encoding && strncasecmp(encoding, "chunked", 7) == 0) c->place = SIZE;
    else if (length) c->place = LENGTH;
    else c->place = TO_CLOSE;
    c->left = c->place == LENGTH ? strtoull(length, NULL, 10) : 0;
    c->have = 0;
    return FAILURES;
}

static void on_bytes(struct call *c, const char *p, size_t count, uint64_t now) {
    const char *end = p + count;
    while (p < end) {
        switch (c->place) {
        case HEAD: {
            char byte = *p++;
            if (!keep(c, &byte, 1)) { fail(c, PROTOCOL); return; }
            if (byte == '\n' && c->have >= 4 && memcmp(c->line + c->have - 4, "\r\n\r\n", 4) == 0) {
                enum failure why = on_head(c);
                if (why != FAILURES) { fail(c, why); return; }
                if (c->place == LENGTH && c->left == 0) { finish(c, now); return; }
            }
            break;
        }
        case SIZE: {
            char byte = *p++;
            if (byte == '\n') {
                c->place = c->left ? DATA : TRAILER;
                c->line_bytes_seen = 0;
            } else if (byte >= '0' && byte <= '9') c->left = c->left * 16 + (unsigned)(byte - '0');
            else if ((byte | 32) >= 'a' && (byte | 32) <= 'f')
                c->left = c->left * 16 + (unsigned)((byte | 32) - 'a' + 10);
            else if (byte != '\r') { fail(c, PROTOCOL); return; }
            break;
        }
        case DATA:
        case LENGTH: {
            size_t take = (size_t)(end - p) < c->left ? (size_t)(end - p) : (size_t)c->left;
            if (!on_body(c, p, take, now)) { fail(c, PROTOCOL); return; }
            p += take;
            c->left -= take;
            if (c->left) break;
            if (c->place == LENGTH) { finish(c, now); return; }
            c->place = DATA_END;
            break;
        }
        case DATA_END:
            if (*p++ == '\n') c->place = SIZE;
            break;
        case TRAILER: {
            char byte = *p++;
            if (byte == '\n' && c->line_bytes_seen == 0) { finish(c, now); return; }
            if (byte == '\n') c->line_bytes_seen = 0;
            else if (byte != '\r') c->line_bytes_seen++;
            break;
        }
        case TO_CLOSE:
            if (!on_body(c, p, (size_t)(end - p), now)) { fail(c, PROTOCOL); return; }
            p = end;
            break;
        }
    }
}

static void read_call(struct call *c) {
    static char bytes[READ_BYTES];
    if (c->fd < 0) return;
    ssize_t got = recv(c->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    uint64_t now = now_ns();
    if (got < 0 && errno == EAGAIN) return;
    if (got > 0 && c->active) {
        if (C.measuring) C.reads++;
        on_bytes(c, bytes, (size_t)got, now);
    } else if (got <= 0 && c->active && c->place == TO_CLOSE) {
        c->keep = false;
        finish(c, now);
    } else if (c->active) {
        fail(c, CLOSED);
    } else {
        hang_up(c); /* an idle keep-alive connection may be closed by its server */
    }
}

static void start_what_is_due(void) {
    uint64_t now = now_ns();
    if (!C.next_start || now < C.next_start) return;
    C.next_start = 0;
    for (unsigned i = 0; i < C.connections; i++) {
        struct call *c = &C.calls[i];
        if (c->start_at && c->start_at <= now) start(c);
        else if (c->start_at && (!C.next_start || c->start_at < C.next_start)) C.next_start = c->start_at;
    }
}

/* Runs until `end`, or with `drain` until no request is left. */
static void run_until(uint64_t end, bool drain) {
    static struct epoll_event ready[BATCH];
    while (now_ns() < end && C.failed < MAX_ERRORS && !(drain && !C.active)) {
        uint64_t until = !C.stopping && C.next_start && C.next_start < end ? C.next_start : end;
        int count = wait_until(C.ep, ready, until);
        struct timespec rest = {0, (long)C.rest_ns};
        if (C.rest_ns && count < BATCH) nanosleep(&rest, NULL);
        for (int i = 0; i < count; i++) read_call(ready[i].data.ptr);
        if (!C.stopping) start_what_is_due();
    }
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void print_samples(const char *name, struct samples *s) {
    double sum = 0;
    qsort(s->tenth_us, s->count, sizeof *s->tenth_us, ascending);
    for (size_t i = 0; i < s->count; i++) sum += s->tenth_us[i];
    printf(",\"%s\":{\"count\":%zu", name, s->count);
    static const struct { const char *name; double share; } marks[] = {{"p50", .5}, {"p90", .9}, {"p99", .99}};
    for (int i = 0; i < 3 && s->count; i++) {
        size_t rank = (size_t)(marks[i].share * (double)(s->count - 1) + 0.5);
        printf(",\"%s\":%.1f", marks[i].name, s->tenth_us[rank] / 10.0);
    }
    if (s->count) printf(",\"mean\":%.2f", sum / (double)s->count / 10.0);
    putchar('}');
}

static void say(const char *word) {
    puts(word);
    fflush(stdout);
}

static void build_request(void) {
    char body[512];
    int n = snprintf(body, sizeof body,
                     "{\"model\":\"" MODEL "\",\"messages\":[{\"role\":\"user\",\"content\":"
                     "\"What does a proxy cost?\"}],\"max_tokens\":%u,\"stream\":%s%s}",
                     C.events, C.json ? "false" : "true",
                     C.include_usage ? ",\"stream_options\":{\"include_usage\":true}" : "");
    C.request_bytes = (size_t)snprintf(C.request, sizeof C.request,
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\n"
        "accept: */*\r\nuser-agent: overhead-driver\r\ncontent-length: %d\r\n\r\n%s", C.port, n, body);
}

static struct samples room_for_samples(void) {
    struct samples s = {malloc(MAX_SAMPLES * sizeof(uint32_t)), 0}; /* touched only as it fills */
    if (!s.tenth_us) die("out of memory");
    return s;
}

static int client_main(uint64_t warm_ns, uint64_t window_ns, uint64_t stagger_ns, uint64_t grace_ns, pid_t worker) {
    clockid_t worker_clock = CLOCK_PROCESS_CPUTIME_ID;
    if (worker && clock_getcpuclockid(worker, &worker_clock) != 0) die("no process %d", (int)worker);
    C.ep = epoll_create1(EPOLL_CLOEXEC);
    C.calls = calloc(C.connections, sizeof *C.calls);
    if (!C.calls) die("out of memory");
    C.ttft = room_for_samples();
    C.itl = room_for_samples();
    C.latency = room_for_samples();
    build_request();
    uint64_t begin = now_ns();
    for (unsigned i = 0; i < C.connections; i++) {
        /* Multiples of the golden ratio: starts are spread evenly over a stream's length and, at the
         * same time, over the gap between two events. */
        double share = i * 0.6180339887498949;
        share -= (double)(unsigned)share;
        C.calls[i].fd = -1;
        start_later(&C.calls[i], begin + 1 + (uint64_t)(share * (double)stagger_ns));
    }
    run_until(begin + warm_ns, false);

    say("begin");
    uint64_t from = now_ns(), cpu = cpu_ns(CLOCK_PROCESS_CPUTIME_ID), worker_cpu = cpu_ns(worker_clock);
    C.measuring = true;
    run_until(from + window_ns, false);
    C.measuring = false;
    double seconds = (double)(now_ns() - from) / 1e9;
    double cpu_s = (double)(cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu) / 1e9;
    double worker_cpu_s = worker ? (double)(cpu_ns(worker_clock) - worker_cpu) / 1e9 : 0;
    unsigned open = C.active;
    say("end");

    C.stopping = true;
    run_until(now_ns() + grace_ns, true);
    C.failures[UNFINISHED] += C.active;
    C.failed += C.active;

    printf("{\"seconds\":%.4f,\"requests\":%lu,\"events\":%lu,\"events_per_s\":%.1f,\"requests_per_s\":%.1f,"
           "\"reads\":%lu,\"open_at_end\":%u,\"client_cpu_s\":%.4f,\"worker_cpu_s\":%.4f",
           seconds, C.requests, C.tokens, (double)C.tokens / seconds, (double)C.requests / seconds, C.reads,
           open, cpu_s, worker_cpu_s);
    print_samples("ttft_us", &C.ttft);
    print_samples("itl_us", &C.itl);
    print_samples("latency_us", &C.latency);
    printf(",\"errors\":%lu,\"failures\":{", C.failed);
    for (int i = 0; i < FAILURES; i++) printf("%s\"%s\":%lu", i ? "," : "", failure_names[i], C.failures[i]);
    puts("}}");
    return 0;
}

/* -------------------------------------------------------------------------------------- main -- */

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"port", 1, 0, 'p'}, {"mode", 1, 0, 'm'}, {"connections", 1, 0, 'c'}, {"events", 1, 0, 'n'},
        {"gap-us", 1, 0, 'g'}, {"warm-ms", 1, 0, 'w'}, {"window-ms", 1, 0, 'd'}, {"stagger-us", 1, 0, 's'},
        {"grace-ms", 1, 0, 'x'}, {"include-usage", 0, 0, 'u'}, {"worker-pid", 1, 0, 'q'},
        {"rest-us", 1, 0, 'r'}, {0, 0, 0, 0}};
    if (argc < 2) die("say `worker` or `client`");
    uint64_t warm_ms = 1000, window_ms = 3000, stagger_us = 0, grace_ms = 10000;
    pid_t worker = 0;
    W.events = C.events = 64;
    W.gap_ns = 10 * NS_PER_MS;
    C.connections = 1;
    int option;
    optind = 2; /* after the role */
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        unsigned long number = optarg ? strtoul(optarg, NULL, 10) : 0;
        switch (option) {
        case 'p': C.port = (int)number; break;
        case 'm': C.json = strcmp(optarg, "json") == 0; break;
        case 'c': C.connections = (unsigned)number; break;
        case 'n': W.events = C.events = (unsigned)number; break;
        case 'g': W.gap_ns = number * NS_PER_US; break;
        case 'r': C.rest_ns = number * NS_PER_US; break;
        case 'w': warm_ms = number; break;
        case 'd': window_ms = number; break;
        case 's': stagger_us = number; break;
        case 'x': grace_ms = number; break;
        case 'u': C.include_usage = true; break;
        case 'q': worker = (pid_t)number; break;
        default: return 2;
        }
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* never outlive the benchmark */
    prctl(PR_SET_TIMERSLACK, 1);      /* the usual 50 us would blur the pacing */
    signal(SIGPIPE, SIG_IGN);
    if (strcmp(argv[1], "worker") == 0) worker_main();
    if (strcmp(argv[1], "client") != 0 || !C.port || !C.connections || !C.events)
        die("client needs --port, --connections and --events");
    return client_main(warm_ms * NS_PER_MS, window_ms * NS_PER_MS, stagger_us * NS_PER_US,
                       grace_ms * NS_PER_MS, worker);
}
