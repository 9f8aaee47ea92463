/* A closed-loop HTTP/1.1 load generator that believes nothing: every answer is parsed, framed and checked.
 *
 *   load requests PORT PATH BODY_FILE [options]     one request after another on each connection
 *   load streams  PORT PATH BODY_FILE [options]     the same with server-sent events
 *     -c N        connections (1)            -H 'name: value'   a further header, repeatable
 *     -d SECONDS  stop asking after that     -e TEXT            must occur in each whole body (requests)
 *     -n COUNT    or after so many requests  -k EVENTS          least number of data: events (streams)
 *     -t SECONDS  time-out of one request    -g MICROSECONDS    spread the first requests over this time
 *     -F FILE     one further header a line: the requests take them in turn
 *     -w MICROSECONDS  how long a connection rests between an answer and its next request (0)
 *
 * Calls 127.0.0.1 and prints one JSON object. Times are microseconds; percentiles come from a log-linear histogram with
 * 0.1 % resolution. An answer counts only if its status is 200, its framing is complete, and its body is whole: a JSON object that
 * holds TEXT, or a stream of at least EVENTS data: events, none of them an error, the last one [DONE].
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
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
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_HEAD (64 * 1024)
#define MAX_LINE 512

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000ull + (uint64_t)t.tv_nsec / 1000;
}

/* ---- Histogram: exact up to 2,047 µs, then 1,024 buckets per power of two ---- */

typedef struct {
    uint32_t counts[2048 + 24 * 1024];
    uint64_t total, max;
} Histogram;

static void observe(Histogram *h, uint64_t value) {
    int shift = 0;
    while ((value >> shift) >= 2048 && shift < 23) shift++;
    uint64_t scaled = value >> shift;
    h->counts[shift ? 1024 + shift * 1024 + (scaled >= 2048 ? 1023 : scaled - 1024) : scaled]++;
    h->total++;
    if (value > h->max) h->max = value;
}

static uint64_t percentile(const Histogram *h, double part) {
    uint64_t rank = (uint64_t)(part * (double)h->total), seen = 0;
    if (rank >= h->total) return h->max;
    for (size_t i = 0; i < sizeof h->counts / sizeof *h->counts; i++)
        if ((seen += h->counts[i]) > rank) {
            if (i < 2048) return i;
            size_t shift = i / 1024 - 1;
            return (uint64_t)(1024 + i % 1024) << shift;
        }
    return h->max;
}

/* ---- Connections ---- */

typedef struct {
    char *data;
    size_t len;
} Request;

typedef enum { HEAD, LENGTH_BODY, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER, BODY_UNTIL_CLOSE, WHOLE } Phase;

typedef struct Conn {
    int fd;
    bool busy, server_closes, waits_for_write;
    uint64_t started, deadline, first_event;
    const Request *request;
    size_t sent;
    Phase phase;
    int status;
    uint64_t remaining;
    char *text; /* the head first, then (unless a stream) the body; or a chunk's size line */
    size_t len, cap;
    char line[MAX_LINE];
    size_t line_len;
    uint64_t events;
    bool done, stream_error;
    uint64_t due;
    struct Conn *next_due;
} Conn;

static struct {
    bool streams;
    int port, connections;
    double seconds, timeout;
    uint64_t count, least_events, spread_us, rest_us;
    const char *expected;
} want = {.connections = 1, .timeout = 60};

static struct {
    uint64_t started, answered, errors, non_200, timeouts, events;
    char first_error[400];
    Histogram latency, first_event;
} got;

static Request *requests;
static size_t request_count, next_request;
static int epoll_fd;
static uint64_t stop_asking, last_answer;
static Conn *first_due, *last_due; /* all rest equally long: they are due in the order in which they came */

static void note_error(const char *what, const char *detail, size_t detail_len) {
    got.errors++;
    if (!got.first_error[0])
        snprintf(got.first_error, sizeof got.first_error, "%s: %.*s", what, (int)(detail_len < 300 ? detail_len : 300), detail);
}

static void hang_up(Conn *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
}

static void watch(Conn *c, int operation) {
    struct epoll_event e = {.events = EPOLLIN | (c->waits_for_write ? EPOLLOUT : 0u), .data.ptr = c};
    epoll_ctl(epoll_fd, operation, c->fd, &e);
}

static bool dial(Conn *c) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)want.port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct timeval patience = {5, 0};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(c->fd, (struct sockaddr *)&a, sizeof a)) {
        hang_up(c);
        return false;
    }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->waits_for_write = false;
    watch(c, EPOLL_CTL_ADD);
    return true;
}

static bool push(Conn *c) {
    while (c->sent < c->request->len) {
        ssize_t n = send(c->fd, c->request->data + c->sent, c->request->len - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno != EAGAIN) return false;
        if (n < 0) break;
        c->sent += (size_t)n;
    }
    bool waits = c->sent < c->request->len;
    if (waits != c->waits_for_write) {
        c->waits_for_write = waits;
        watch(c, EPOLL_CTL_MOD);
    }
    return true;
}

static void ask(Conn *c) {
    uint64_t now = now_us();
    c->busy = false;
    while (now < stop_asking && (!want.count || got.started < want.count)) {
        got.started++;
        if (c->fd < 0 && !dial(c)) {
            note_error("connect", strerror(errno), strlen(strerror(errno)));
            usleep(1000);
            now = now_us();
            continue;
        }
        c->busy = true;
        c->started = now;
        c->deadline = now + (uint64_t)(want.timeout * 1e6);
        c->request = &requests[next_request++ % request_count];
        c->sent = c->len = c->line_len = 0;
        c->remaining = 0;
        c->phase = HEAD;
        c->events = c->first_event = 0;
        c->server_closes = c->done = c->stream_error = false;
        if (push(c)) return;
        note_error("send", strerror(errno), strlen(strerror(errno)));
        hang_up(c);
        c->busy = false;
        now = now_us();
    }
}

static size_t least(uint64_t a, size_t b) { return a < b ? (size_t)a : b; }

static void rest(Conn *c) {
    if (!want.rest_us) {
        ask(c);
        return;
    }
    c->busy = false;
    c->due = now_us() + want.rest_us;
    c->next_due = NULL;
    if (first_due) last_due->next_due = c;
    else first_due = c;
    last_due = c;
}

/* Asks for those who have rested. Returns the milliseconds until the next one has, at most `most`. */
static int wake(int most) {
    for (uint64_t now = now_us(); first_due; ) {
        uint64_t left = first_due->due > now && now < stop_asking ? first_due->due - now : 0;
        if (left) return (int)least(left / 1000 + 1, (uint64_t)most);
        Conn *c = first_due;
        first_due = c->next_due;
        ask(c);
    }
    return most;
}

/* ---- Answers ---- */

static void keep(Conn *c, const char *data, size_t len) {
    if (c->len + len + 1 > c->cap) {
        c->cap = (c->len + len + 1) * 2;
        c->text = realloc(c->text, c->cap);
        if (!c->text) abort();
    }
    memcpy(c->text + c->len, data, len);
    c->len += len;
    c->text[c->len] = 0;
}

static void end_of_line(Conn *c) {
    size_t len = c->line_len;
    c->line_len = 0;
    if (len && c->line[len - 1] == '\r') len--;
    if (len >= 12 && memcmp(c->line, "event: error", 12) == 0) c->stream_error = true;
    if (len < 5 || memcmp(c->line, "data:", 5) != 0) return;
    const char *payload = c->line + 5;
    size_t size = len - 5;
    if (size && *payload == ' ') payload++, size--;
    if (c->done) c->stream_error = true; /* nothing may follow [DONE] */
    if (!c->events++) c->first_event = now_us();
    if (size == 6 && memcmp(payload, "[DONE]", 6) == 0) c->done = true;
    else if (!size || *payload != '{' || memmem(payload, size < 200 ? size : 200, "\"error\":", 8)) c->stream_error = true;
}

static void take_events(Conn *c, const char *data, size_t len) {
    while (len) {
        const char *end = memchr(data, '\n', len);
        size_t n = end ? (size_t)(end - data) : len, room = MAX_LINE - c->line_len;
        memcpy(c->line + c->line_len, data, n < room ? n : room);
        c->line_len += n < room ? n : room;
        if (!end) return;
        end_of_line(c);
        len -= n + 1;
        data = end + 1;
    }
}

static void take_body(Conn *c, const char *data, size_t len) {
    if (want.streams && c->status == 200) take_events(c, data, len);
    else keep(c, data, len);
}

static const char *header(const char *head, const char *name) {
    size_t len = strlen(name);
    for (const char *p = head; (p = strchr(p, '\n')); p++)
        if (strncasecmp(p, name, len) == 0) return p + len + strspn(p + len, " \t");
    return NULL;
}

/* Reads the head in c->text. Returns false when it is not HTTP. */
static bool read_head(Conn *c) {
    if (strncmp(c->text, "HTTP/1.", 7) != 0 || c->len < 12) return false;
    c->status = atoi(c->text + 9);
    if (c->status >= 100 && c->status < 200) return true; /* an interim answer: the real one follows */
    const char *encoding = header(c->text, "\ntransfer-encoding:"), *length = header(c->text, "\ncontent-length:");
    const char *connection = header(c->text, "\nconnection:");
    c->server_closes = connection && strncasecmp(connection, "close", 5) == 0;
    if (encoding && strncasecmp(encoding, "chunked", 7) == 0) c->phase = CHUNK_SIZE;
    else if (length) {
        c->remaining = strtoull(length, NULL, 10);
        c->phase = c->remaining ? LENGTH_BODY : WHOLE;
    } else {
        c->phase = BODY_UNTIL_CLOSE;
        c->server_closes = true;
    }
    return true;
}

/* Collects bytes up to and with `end` in c->text; returns how many were taken, or -1 when there are too many. */
static ssize_t collect(Conn *c, const char *data, size_t len, const char *end, bool *complete) {
    size_t before = c->len, from = before > 3 ? before - 3 : 0;
    keep(c, data, len);
    char *at = memmem(c->text + from, c->len - from, end, strlen(end));
    *complete = at != NULL;
    if (!at) return c->len > MAX_HEAD ? -1 : (ssize_t)len;
    c->len = (size_t)(at - c->text) + strlen(end);
    c->text[c->len] = 0;
    return (ssize_t)(c->len - before);
}

/* Takes part of a chunk's size line (hexadecimal digits, then perhaps an extension), which may be cut anywhere. */
static ssize_t take_chunk_size(Conn *c, const char *data, size_t len) {
    static const char digits[] = "0123456789abcdef";
    const uint64_t in_extension = 1ull << 63;
    for (size_t i = 0; i < len; i++) {
        if (data[i] == '\n') {
            c->remaining &= ~in_extension;
            c->phase = c->remaining ? CHUNK_DATA : TRAILER;
            return (ssize_t)i + 1;
        }
        if (data[i] == ';') c->remaining |= in_extension;
        if (data[i] == '\r' || c->remaining & in_extension) continue;
        const char *digit = data[i] ? strchr(digits, data[i] | 32) : NULL;
        if (!digit || c->remaining >> 40) return -1;
        c->remaining = c->remaining * 16 + (uint64_t)(digit - digits);
    }
    return (ssize_t)len;
}

/* Takes part of a line behind the last chunk; the empty one ends the answer. `remaining` counts its characters. */
static ssize_t take_trailer(Conn *c, const char *data, size_t len) {
    for (size_t i = 0; i < len; i++) {
        if (data[i] == '\n') {
            if (!c->remaining) c->phase = WHOLE;
            c->remaining = 0;
            return (ssize_t)i + 1;
        }
        c->remaining += data[i] != '\r';
    }
    return (ssize_t)len;
}

/* One step of the parser. Returns the number of bytes taken, or -1 when they are not HTTP. */
static ssize_t step(Conn *c, const char *data, size_t len) {
    size_t n = least(c->remaining, len);
    ssize_t taken;
    bool complete;
    switch (c->phase) {
    case HEAD:
        taken = collect(c, data, len, "\r\n\r\n", &complete);
        if (complete && !read_head(c)) return -1;
        if (complete) c->len = 0;
        return taken;
    case LENGTH_BODY:
        take_body(c, data, n);
        if (!(c->remaining -= n)) c->phase = WHOLE;
        return (ssize_t)n;
    case CHUNK_SIZE:
        return take_chunk_size(c, data, len);
    case TRAILER:
        return take_trailer(c, data, len);
    case CHUNK_DATA:
        take_body(c, data, n);
        if (!(c->remaining -= n)) c->phase = CHUNK_END;
        return (ssize_t)n;
    case CHUNK_END:
        if (*data != '\r' && *data != '\n') return -1;
        if (*data == '\n') c->phase = CHUNK_SIZE;
        return 1;
    case BODY_UNTIL_CLOSE:
        take_body(c, data, len);
        return (ssize_t)len;
    case WHOLE:
        break;
    }
    return -1; /* bytes after the end of the answer: nothing was asked */
}

static void judge(Conn *c) {
    uint64_t now = now_us();
    const char *text = c->text ? c->text : "";
    bool ok = c->status == 200;
    if (!ok) {
        char what[32];
        got.non_200++;
        snprintf(what, sizeof what, "status %d", c->status);
        note_error(what, text, c->len);
    } else if (want.streams) {
        ok = c->done && !c->stream_error && c->events >= want.least_events;
        char detail[96];
        snprintf(detail, sizeof detail, "%llu events, done %d, error %d", (unsigned long long)c->events, c->done, c->stream_error);
        if (!ok) note_error("incomplete stream", detail, strlen(detail));
    } else {
        while (c->len && (text[c->len - 1] == '\n' || text[c->len - 1] == '\r')) c->len--;
        ok = c->len > 1 && text[0] == '{' && text[c->len - 1] == '}' &&
             (!want.expected || memmem(text, c->len, want.expected, strlen(want.expected)));
        if (!ok) note_error("incomplete body", text, c->len);
    }
    got.events += c->events;
    last_answer = now;
    if (ok) {
        got.answered++;
        observe(&got.latency, now - c->started);
        if (want.streams) observe(&got.first_event, c->first_event - c->started);
    }
    if (c->server_closes) hang_up(c);
    rest(c);
}

static void fail(Conn *c, const char *why) {
    note_error(why, "", 0);
    hang_up(c);
    ask(c);
}

static void receive(Conn *c) {
    static char block[256 * 1024];
    ssize_t n = recv(c->fd, block, sizeof block, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (!c->busy) {
        hang_up(c);
        return;
    }
    if (n == 0 && c->phase == BODY_UNTIL_CLOSE) {
        judge(c);
        return;
    }
    if (n <= 0) {
        fail(c, n ? "connection reset" : c->len || c->phase != HEAD ? "answer cut short" : "closed without an answer");
        return;
    }
    for (ssize_t at = 0; at < n;) {
        ssize_t taken = step(c, block + at, (size_t)(n - at));
        if (taken < 0) {
            fail(c, "malformed answer");
            return;
        }
        at += taken;
    }
    if (c->phase == WHOLE) judge(c);
}

/* ---- The run ---- */

static char *read_file(const char *path, size_t *len) {
    FILE *f = fopen(path, "rb");
    struct stat s;
    if (!f || fstat(fileno(f), &s)) {
        perror(path);
        exit(2);
    }
    char *text = calloc(1, (size_t)s.st_size + 1);
    *len = fread(text, 1, (size_t)s.st_size, f);
    fclose(f);
    return text;
}

static void make_request(const char *path, const char *body, size_t body_len, const char *const *headers, int header_count) {
    size_t cap = body_len + 16384;
    char *data = malloc(cap);
    int n = snprintf(data, cap, "POST %s HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n",
                     path, want.port, body_len);
    for (int i = 0; i < header_count; i++) n += snprintf(data + n, 16000u - (size_t)n, "%s\r\n", headers[i]);
    n += snprintf(data + n, 16384u - (size_t)n, "\r\n");
    memcpy(data + n, body, body_len);
    requests = realloc(requests, (request_count + 1) * sizeof *requests);
    requests[request_count++] = (Request){data, (size_t)n + body_len};
}

/* One request, or one for each line of `header_file`, which is a header of its own. */
static void make_requests(const char *path, const char *body_file, const char **headers, int header_count, const char *header_file) {
    size_t body_len, ignored;
    char *body = read_file(body_file, &body_len);
    char *lines = header_file ? read_file(header_file, &ignored) : NULL;
    for (char *line = lines ? strtok(lines, "\n") : NULL; line; line = strtok(NULL, "\n")) {
        headers[header_count] = line;
        make_request(path, body, body_len, headers, header_count + 1);
    }
    if (!request_count) make_request(path, body, body_len, headers, header_count);
    free(lines);
    free(body);
}

static void run(Conn *conns) {
    struct epoll_event events[256];
    uint64_t begun = now_us(), next_check = begun + 100000;
    int next = 0, busy = 1;
    stop_asking = want.seconds > 0 ? begun + (uint64_t)(want.seconds * 1e6) : UINT64_MAX;
    while (busy) {
        for (; next < want.connections && now_us() >= begun + want.spread_us * (uint64_t)next / (uint64_t)want.connections; next++)
            ask(&conns[next]);
        int n = epoll_wait(epoll_fd, events, 256, wake(next < want.connections ? 0 : 100));
        for (int i = 0; i < n; i++) {
            Conn *c = events[i].data.ptr;
            if (c->fd >= 0 && events[i].events & EPOLLOUT && !push(c)) fail(c, "send");
            else if (c->fd >= 0 && events[i].events & ~(uint32_t)EPOLLOUT) receive(c);
        }
        busy = next < want.connections || first_due;
        uint64_t now = now_us();
        for (int i = 0; i < next && (!busy || now > next_check); i++) {
            Conn *c = &conns[i];
            busy |= c->busy;
            if (now > next_check && c->busy && now > c->deadline) {
                got.timeouts++;
                fail(c, "timed out");
            }
        }
        if (now > next_check) next_check = now + 100000;
    }
}

static void print_text(const char *text) {
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') printf("\\%c", *text);
        else if ((unsigned char)*text >= 32 && (unsigned char)*text < 127) putchar(*text);
        else putchar(' ');
    }
    putchar('"');
}

static void print_times(const char *name, const Histogram *h) {
    printf(",\"%s_p50\":%llu,\"%s_p90\":%llu,\"%s_p99\":%llu,\"%s_max\":%llu", name, (unsigned long long)percentile(h, 0.5), name,
           (unsigned long long)percentile(h, 0.9), name, (unsigned long long)percentile(h, 0.99), name, (unsigned long long)h->max);
}

int main(int argc, char **argv) {
    const char *headers[33], *header_file = NULL;
    int header_count = 0, option;
    if (argc < 5) return 2;
    while ((option = getopt(argc, argv, "c:d:n:t:H:F:w:e:k:g:")) != -1) switch (option) {
        case 'c': want.connections = atoi(optarg); break;
        case 'd': want.seconds = atof(optarg); break;
        case 'n': want.count = strtoull(optarg, NULL, 10); break;
        case 't': want.timeout = atof(optarg); break;
        case 'e': want.expected = optarg; break;
        case 'k': want.least_events = strtoull(optarg, NULL, 10); break;
        case 'g': want.spread_us = strtoull(optarg, NULL, 10); break;
        case 'H':
            if (header_count < 32) headers[header_count++] = optarg;
            break;
        case 'F': header_file = optarg; break;
        case 'w': want.rest_us = strtoull(optarg, NULL, 10); break;
        default: return 2;
        }
    if (argc - optind != 4 || want.connections < 1 || (want.seconds <= 0 && !want.count)) return 2;
    want.streams = strcmp(argv[optind], "streams") == 0;
    want.port = atoi(argv[optind + 1]);
    make_requests(argv[optind + 2], argv[optind + 3], headers, header_count, header_file);
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    Conn *conns = calloc((size_t)want.connections, sizeof *conns);
    for (int i = 0; i < want.connections; i++) conns[i].fd = -1;
    uint64_t begun = now_us();
    run(conns);

    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e6 + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
    double elapsed = last_answer > begun ? (double)(last_answer - begun) / 1e6 : 0;
    printf("{\"asked\":%llu,\"answered\":%llu,\"errors\":%llu,\"non_200\":%llu,\"timeouts\":%llu,\"events\":%llu,"
           "\"seconds\":%.6f,\"cpu_us\":%.0f",
           (unsigned long long)got.started, (unsigned long long)got.answered, (unsigned long long)got.errors,
           (unsigned long long)got.non_200, (unsigned long long)got.timeouts, (unsigned long long)got.events, elapsed, cpu);
    print_times("latency", &got.latency);
    print_times("first_event", &got.first_event);
    printf(",\"first_error\":");
    print_text(got.first_error);
    printf("}\n");
    return 0;
}
