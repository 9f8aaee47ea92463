/* A fast stand-in for an OpenAI-compatible server: the same answer for everybody, at a few microseconds each.
 *
 *   mock [-p PORT] [-c CHUNKS] [-i PACE_US]
 *
 * Listens on 127.0.0.1 (PORT 0, the default, takes a free one) and prints the port alone on its first line.
 * One thread, level-triggered epoll, keep-alive, pipelined requests answered in order.
 *
 * Rule 1: a request is answered once its whole body (Content-Length or chunked) has arrived, never before.
 * Rule 2: a stream is CHUNKS events, one every PACE_US, the first at once; after the last pause come the finish chunk,
 *         the usage chunk (choices: []) and [DONE] in one write. While it runs, later requests of the connection wait.
 * Rule 3: all streams have one pace, so deadlines arise in the order in which they fall due: a FIFO is the timer wheel.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MODEL "gpt-4o-mini"
#define ID "chatcmpl-C9fJ2mPq7sVx4Lr8TzYbN1dKwE3uH"
#define MAX_HEAD (64 * 1024)
#define MAX_REQUEST (64 * 1024 * 1024)

typedef struct {
    char *data;
    size_t len, cap;
} Buffer;

typedef struct Conn {
    int fd;
    Buffer in, out;
    size_t out_sent;
    bool close_after_answer, waits_for_write, dead;
    bool streaming;
    int chunks_sent;
    uint64_t due;
    struct Conn *next_due;
} Conn;

static int epoll_fd, timer_fd, chunks_per_stream = 64;
static uint64_t pace_ns = 20 * 1000 * 1000ull;
static Conn *first_due, *last_due;
static Buffer answer_chat, answer_embedding, answer_models, answer_health, answer_missing, answer_bad;
static Buffer stream_head, stream_chunk, stream_tail;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void append(Buffer *b, const char *data, size_t len) {
    if (b->len + len > b->cap) {
        b->cap = (b->len + len) * 2;
        b->data = realloc(b->data, b->cap);
        if (!b->data) abort();
    }
    memcpy(b->data + b->len, data, len);
    b->len += len;
}

static void append_text(Buffer *b, const char *text) { append(b, text, strlen(text)); }

/* ---- What is said ---- */

static void make_answer(Buffer *b, const char *status, const char *body) {
    char head[256];
    snprintf(head, sizeof head,
             "HTTP/1.1 %s\r\ncontent-type: application/json\r\nx-request-id: req_8f31c2\r\ncontent-length: %zu\r\n\r\n", status,
             strlen(body));
    append_text(b, head);
    append_text(b, body);
}

static void make_event(Buffer *b, const char *payload) {
    char size[32];
    snprintf(size, sizeof size, "%zx\r\n", strlen(payload) + 8);
    append_text(b, size);
    append_text(b, "data: ");
    append_text(b, payload);
    append_text(b, "\n\n\r\n");
}

static void make_answers(void) {
    make_answer(&answer_chat, "200 OK",
                "{\"id\":\"" ID "\",\"object\":\"chat.completion\",\"created\":1730000000,\"model\":\"" MODEL "\","
                "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"A toll bridge is a bridge where "
                "a fee is asked for passage; the money pays for building and keeping it.\",\"refusal\":null},"
                "\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":31,\"completion_tokens\":24,"
                "\"total_tokens\":55,\"prompt_tokens_details\":{\"cached_tokens\":0},"
                "\"completion_tokens_details\":{\"reasoning_tokens\":0}},\"system_fingerprint\":\"fp_06737a9306\"}");
    make_answer(&answer_embedding, "200 OK",
                "{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":0,\"embedding\":[0.0123,-0.0456,0.0789,"
                "-0.1012,0.1345,-0.1678,0.2011,-0.2344]}],\"model\":\"" MODEL "\","
                "\"usage\":{\"prompt_tokens\":8,\"total_tokens\":8}}");
    make_answer(&answer_models, "200 OK",
                "{\"object\":\"list\",\"data\":[{\"id\":\"" MODEL "\",\"object\":\"model\",\"created\":1730000000,"
                "\"owned_by\":\"mock\"}]}");
    make_answer(&answer_health, "200 OK", "{\"status\":\"ok\"}");
    make_answer(&answer_missing, "404 Not Found",
                "{\"error\":{\"message\":\"no such path\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":null}}");
    make_answer(&answer_bad, "400 Bad Request",
                "{\"error\":{\"message\":\"not HTTP\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":null}}");

#define CHUNK(rest) \
    "{\"id\":\"" ID "\",\"object\":\"chat.completion.chunk\",\"created\":1730000000,\"model\":\"" MODEL "\"," \
    "\"system_fingerprint\":\"fp_06737a9306\"," rest "}"
    append_text(&stream_head,
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
                "x-request-id: req_8f31c2\r\ntransfer-encoding: chunked\r\n\r\n");
    make_event(&stream_head, CHUNK("\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"A\"},"
                                   "\"logprobs\":null,\"finish_reason\":null}]"));
    make_event(&stream_chunk, CHUNK("\"choices\":[{\"index\":0,\"delta\":{\"content\":\" bridge\"},"
                                    "\"logprobs\":null,\"finish_reason\":null}]"));
    make_event(&stream_tail, CHUNK("\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]"));
    char usage[512];
    snprintf(usage, sizeof usage,
             CHUNK("\"choices\":[],\"usage\":{\"prompt_tokens\":31,\"completion_tokens\":%d,\"total_tokens\":%d}"),
             chunks_per_stream, chunks_per_stream + 31);
    make_event(&stream_tail, usage);
    make_event(&stream_tail, "[DONE]");
    append_text(&stream_tail, "0\r\n\r\n");
}

/* ---- Connections ---- */

static void watch(Conn *c, int operation) {
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | (c->waits_for_write ? EPOLLOUT : 0u), .data.ptr = c};
    epoll_ctl(epoll_fd, operation, c->fd, &e);
}

static void discard(Conn *c) {
    if (!c->dead) {
        close(c->fd);
        c->dead = true;
    }
    /* A connection that still waits for its next chunk is freed when that falls due. */
    if (!c->streaming) {
        free(c->in.data);
        free(c->out.data);
        free(c);
    }
}

/* Returns false when the connection is broken. */
static bool flush(Conn *c) {
    while (c->out_sent < c->out.len) {
        ssize_t n = send(c->fd, c->out.data + c->out_sent, c->out.len - c->out_sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno != EAGAIN) return false;
        if (n < 0) break;
        c->out_sent += (size_t)n;
    }
    bool waits = c->out_sent < c->out.len;
    if (!waits) c->out.len = c->out_sent = 0;
    if (waits != c->waits_for_write) {
        c->waits_for_write = waits;
        watch(c, EPOLL_CTL_MOD);
    }
    return true;
}

static void say(Conn *c, const Buffer *what) { append(&c->out, what->data, what->len); }

/* ---- Streams ---- */

static void arm_timer(void) {
    static uint64_t armed_for;
    if (!first_due || first_due->due == armed_for) return;
    armed_for = first_due->due;
    struct itimerspec t = {.it_value = {(time_t)(armed_for / 1000000000ull), (long)(armed_for % 1000000000ull)}};
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &t, NULL);
}

static void schedule(Conn *c, uint64_t due) {
    c->due = due;
    c->next_due = NULL;
    if (last_due) last_due->next_due = c;
    else first_due = c;
    last_due = c;
}

static void begin_stream(Conn *c) {
    c->streaming = true;
    c->chunks_sent = 1;
    say(c, &stream_head);
    schedule(c, now_ns() + pace_ns);
}

static bool answer_buffered(Conn *c);

static void run_due_streams(void) {
    uint64_t now = now_ns();
    while (first_due && first_due->due <= now) {
        Conn *c = first_due;
        first_due = c->next_due;
        if (!first_due) last_due = NULL;
        bool finished = c->chunks_sent == chunks_per_stream;
        if (c->dead || finished) c->streaming = false;
        if (c->dead) {
            discard(c);
            continue;
        }
        say(c, finished ? &stream_tail : &stream_chunk);
        c->chunks_sent++;
        if (!finished) schedule(c, c->due + pace_ns);
        bool ok = finished ? answer_buffered(c) : flush(c);
        if (!ok) discard(c);
    }
    arm_timer();
}

/* ---- Requests ---- */

/* The value of a header within [head, end), or NULL; `name` in lower case with its colon, preceded by a line feed. */
static const char *header(const char *head, const char *end, const char *name) {
    size_t len = strlen(name);
    for (const char *p = head; (p = memchr(p, '\n', (size_t)(end - p))) && p + len < end; p++)
        if (strncasecmp(p, name, len) == 0) {
            for (p += len; *p == ' ' || *p == '\t'; p++) {}
            return p;
        }
    return NULL;
}

/* Length of a chunked body with its terminator, 0 when it is not whole yet, -1 when it is malformed. */
static ssize_t chunked_length(const char *body, size_t len) {
    size_t at = 0;
    for (;;) {
        const char *line_end = memmem(body + at, len - at, "\r\n", 2);
        if (!line_end) return 0;
        char *digits_end;
        unsigned long size = strtoul(body + at, &digits_end, 16);
        if (digits_end == body + at || size > MAX_REQUEST) return -1;
        at = (size_t)(line_end - body) + 2 + size + 2;
        if (at > len) return 0;
        if (size == 0) return (ssize_t)at;
    }
}

static bool asks_for_stream(const char *body, size_t len) {
    const char *p = body, *end = body + len;
    while ((p = memmem(p, (size_t)(end - p), "\"stream\"", 8))) {
        for (p += 8; p < end && (*p == ' ' || *p == ':' || *p == '\t' || *p == '\n' || *p == '\r'); p++) {}
        if (end - p >= 4 && memcmp(p, "true", 4) == 0) return true;
    }
    return false;
}

static bool starts(const char *text, const char *prefix) { return strncmp(text, prefix, strlen(prefix)) == 0; }

static void answer(Conn *c, const char *head, const char *body, size_t body_len) {
    if (starts(head, "POST /v1/chat/completions ")) {
        if (asks_for_stream(body, body_len)) begin_stream(c);
        else say(c, &answer_chat);
    } else if (starts(head, "POST /v1/embeddings ")) say(c, &answer_embedding);
    else if (starts(head, "GET /v1/models ")) say(c, &answer_models);
    else if (starts(head, "GET /health ")) say(c, &answer_health);
    else say(c, &answer_missing);
}

static bool refuse(Conn *c) {
    say(c, &answer_bad);
    flush(c);
    return false;
}

/* Answers every whole request that has been received. Returns false when the connection has to be closed. */
static bool answer_buffered(Conn *c) {
    size_t at = 0;
    while (!c->streaming && !c->close_after_answer && at < c->in.len) {
        const char *head = c->in.data + at;
        size_t available = c->in.len - at;
        const char *head_end = memmem(head, available, "\r\n\r\n", 4);
        if (!head_end && available > MAX_HEAD) return refuse(c);
        if (!head_end) break;
        const char *body = head_end + 4;
        size_t received = available - (size_t)(body - head);
        ssize_t body_len = 0;
        const char *length = header(head, head_end + 2, "\ncontent-length:");
        const char *encoding = header(head, head_end + 2, "\ntransfer-encoding:");
        if (encoding && strncasecmp(encoding, "chunked", 7) == 0) {
            body_len = chunked_length(body, received);
            if (body_len < 0) return refuse(c);
            if (body_len == 0) break;
        } else if (length) {
            body_len = atol(length);
            if (body_len < 0 || body_len > MAX_REQUEST) return refuse(c);
            if ((size_t)body_len > received) break;
        }
        const char *connection = header(head, head_end + 2, "\nconnection:");
        c->close_after_answer = connection && strncasecmp(connection, "close", 5) == 0;
        answer(c, head, body, (size_t)body_len);
        at += (size_t)(body - head) + (size_t)body_len;
    }
    if (at) {
        memmove(c->in.data, c->in.data + at, c->in.len - at);
        c->in.len -= at;
    }
    if (!flush(c)) return false;
    return !(c->close_after_answer && !c->streaming && c->out.len == 0);
}

static bool receive(Conn *c) {
    char block[64 * 1024];
    ssize_t n = recv(c->fd, block, sizeof block, 0);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    if (n == 0 || c->in.len + (size_t)n > MAX_REQUEST + MAX_HEAD) return false;
    append(&c->in, block, (size_t)n);
    return answer_buffered(c);
}

static void accept_all(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        Conn *c = calloc(1, sizeof *c);
        if (!c) abort();
        c->fd = fd;
        watch(c, EPOLL_CTL_ADD);
    }
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof a;
    if (bind(fd, (struct sockaddr *)&a, len) || listen(fd, 4096) || getsockname(fd, (struct sockaddr *)&a, &len)) {
        perror("mock: listen");
        exit(1);
    }
    printf("%d\n", ntohs(a.sin_port));
    fflush(stdout);
    return fd;
}

int main(int argc, char **argv) {
    int port = 0, option;
    while ((option = getopt(argc, argv, "p:c:i:")) != -1) {
        if (option == 'p') port = atoi(optarg);
        else if (option == 'c') chunks_per_stream = atoi(optarg);
        else if (option == 'i') pace_ns = strtoull(optarg, NULL, 10) * 1000;
        else return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    make_answers();

    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    int listener = listen_on(port);
    /* Edge-triggered: each expiry wakes once, without a read() to clear it. */
    struct epoll_event e = {.events = EPOLLIN | EPOLLET, .data.ptr = &timer_fd};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &e);
    e = (struct epoll_event){.events = EPOLLIN, .data.ptr = &listener};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e);

    struct epoll_event events[256];
    for (;;) {
        int n = epoll_wait(epoll_fd, events, 256, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == &timer_fd) continue;
            if (events[i].data.ptr == &listener) {
                accept_all(listener);
                continue;
            }
            Conn *c = events[i].data.ptr;
            bool ok = true;
            if (events[i].events & EPOLLOUT) ok = flush(c) && !(c->close_after_answer && !c->streaming && c->out.len == 0);
            if (ok && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) ok = receive(c);
            if (!ok) discard(c);
        }
        /* After the loop, so that no event of this batch can point at a connection that is freed here. */
        if (first_due) run_due_streams();
    }
}
