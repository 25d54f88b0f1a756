// The truth server: answers chat requests as vLLM does, and says on the client's own clock when it did what.
//
//   cc -O2 -o server server.c
//   server MODE [--ttft-us N] [--itl-us N] [--tokens N] [--port N]       prints {"port": N} once it listens
//
//   burst   the whole answer in one write, at once: the ceiling of a client
//   paced   first token 50 ms after the last byte of the request, then one every 5 ms
//   tick    first token after 500 ms, then one every 20 ms; all streams write on one common tick, as continuous batching does
//
// Every token's text is the CLOCK_MONOTONIC time in ns at which its chunk was handed to the kernel; the first one is preceded by
// the time at which the request body was complete. Python's time.monotonic_ns() reads the same clock, so that a client's stamps
// can be checked against the answer itself, whatever path they took. GET /truth/log gives one CSV line for each answer, and
// forgets them; GET /truth/cpu the CPU seconds used so far.
//
// One thread, one epoll. Every delay in a mode is the same for all requests, so that deadlines come in order and two plain queues
// are enough for timers. It reads HTTP/1.1 requests with a content-length, one at a time on a connection, as our peers send them.
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
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_MAX = 8192, KEEP = 4096, READ_MAX = 1 << 18, EVENTS = 512, TOKENS_MAX = 4096 };
typedef int64_t ns_t;

enum state { IDLE, BODY, ANSWER };

typedef struct conn {
    int fd;
    enum state state;
    unsigned generation;           // grows when the connection closes: timers of its past are stale
    bool alive, writable_wanted;
    char head[HEAD_MAX + 1];
    int head_len;
    long body_len, body_got;
    char first[KEEP], last[KEEP];  // of the body: the fields we look for stand at its beginning or its end
    int first_len, last_len;
    ns_t first_read, body_done, first_token, last_token;
    long id;
    int tokens, sent;
    bool stream, usage;
    char *out;
    size_t out_len, out_cap;
    struct conn *next_free;
} conn;

typedef struct { conn *c; unsigned generation; ns_t due; } timer;
typedef struct { timer *ring; unsigned head, tail, cap; } queue;
typedef struct { ns_t first_read, body_done, first_token, last_token; long body_len; int tokens; } answer;

static ns_t ttft, itl;
static int default_tokens = 16;
static bool burst, tick;
static int epoll_fd;
static long answers_total;
static conn *free_list;
static queue first_tokens, next_tokens;
static answer *answers;
static size_t answers_len, answers_cap;
static char read_buffer[READ_MAX];

static ns_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void *must(void *p) {
    if (!p) { perror("memory"); exit(1); }
    return p;
}

// Timers

static void push(queue *q, conn *c, ns_t due) {
    if (tick && itl) due = (due + itl - 1) / itl * itl;
    if (q->tail - q->head == q->cap) {
        unsigned cap = q->cap ? q->cap * 2 : 1024;
        timer *ring = must(malloc(cap * sizeof *ring));
        for (unsigned i = q->head; i != q->tail; i++) ring[i % cap] = q->ring[i % q->cap];
        free(q->ring);
        q->ring = ring;
        q->cap = cap;
    }
    q->ring[q->tail++ % q->cap] = (timer){c, c->generation, due};
}

static timer *front(queue *q) {
    while (q->head != q->tail) {
        timer *t = &q->ring[q->head % q->cap];
        if (t->generation == t->c->generation) return t;
        q->head++;
    }
    return NULL;
}

// Connections and their output

static void wait_for(conn *c, int op, bool writable) {
    struct epoll_event e = {.events = EPOLLIN | (writable ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, op, c->fd, &e);
    c->writable_wanted = writable;
}

static void drop(conn *c) {
    if (!c->alive) return;
    c->alive = false;
    c->generation++;
    close(c->fd);
    c->next_free = free_list;
    free_list = c;
}

static void put(conn *c, const char *data, size_t len) {
    if (c->out_len + len > c->out_cap) {
        c->out_cap = (c->out_len + len) * 2 + 8192;
        c->out = must(realloc(c->out, c->out_cap));
    }
    memcpy(c->out + c->out_len, data, len);
    c->out_len += len;
}

static void flush(conn *c) {
    size_t done = 0;
    while (done < c->out_len) {
        ssize_t n = send(c->fd, c->out + done, c->out_len - done, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) break;
        if (n < 0) { drop(c); return; }
        done += n;
    }
    memmove(c->out, c->out + done, c->out_len - done);
    c->out_len -= done;
    if ((c->out_len > 0) != c->writable_wanted) wait_for(c, EPOLL_CTL_MOD, c->out_len > 0);
}

static void put_event(conn *c, const char *json, int len) {
    char size[32];
    put(c, size, sprintf(size, "%x\r\ndata: ", len + 8));
    put(c, json, len);
    put(c, "\n\n\r\n", 4);
    if (!burst) flush(c);
}

static void reply(conn *c, const char *type, const char *body, size_t len) {
    char head[256];
    put(c, head, sprintf(head, "HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %zu\r\n\r\n", type, len));
    put(c, body, len);
    c->state = IDLE;
    c->head_len = 0;
    flush(c);
}

// Answers

static void note_answer(conn *c) {
    if (answers_len == answers_cap) {
        answers_cap = answers_cap ? answers_cap * 2 : 65536;
        answers = must(realloc(answers, answers_cap * sizeof *answers));
    }
    answers[answers_len++] =
        (answer){c->first_read, c->body_done, c->first_token, c->last_token, c->body_len, c->tokens};
    answers_total++;
    c->state = IDLE;
    c->head_len = 0;
}

#define CHUNK "{\"id\":\"chatcmpl-%ld\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"tiny\","

static void open_stream(conn *c) {
    static const char head[] = "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                               "transfer-encoding: chunked\r\n\r\n";
    char json[512];
    put(c, head, sizeof head - 1);
    if (!burst) flush(c);
    if (!c->alive) return;
    put_event(c, json, sprintf(json, CHUNK "\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
        "\"logprobs\":null,\"finish_reason\":null}]}", c->id));
}

static void close_stream(conn *c) {
    char json[512];
    if (c->usage) {
        put_event(c, json, sprintf(json, CHUNK "\"choices\":[],\"usage\":{\"prompt_tokens\":1000,\"total_tokens\":%d,"
            "\"completion_tokens\":%d}}", c->id, 1000 + c->tokens, c->tokens));
        if (!c->alive) return;
    }
    put_event(c, "[DONE]", 6);
    if (!c->alive) return;
    put(c, "0\r\n\r\n", 5);
    flush(c);
    if (c->alive) note_answer(c);
}

static void send_token(conn *c) {
    char json[700], text[64];
    if (c->sent == 0) open_stream(c);
    do {
        if (!c->alive) return;
        ns_t t = now();
        if (c->sent++ == 0) {
            c->first_token = t;
            sprintf(text, "%lld %lld", (long long)c->body_done, (long long)t);
        } else {
            sprintf(text, " %lld", (long long)t);
        }
        c->last_token = t;
        const char *finish = c->sent == c->tokens ? "\"length\"" : "null";
        put_event(c, json, sprintf(json, CHUNK "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%s\"},\"logprobs\":null,"
            "\"finish_reason\":%s,\"token_ids\":null}]}", c->id, text, finish));
    } while (itl == 0 && c->sent < c->tokens);
    if (!c->alive) return;
    if (c->sent == c->tokens) close_stream(c);
    else push(&next_tokens, c, c->last_token + itl);
}

static void send_whole(conn *c) {
    char json[700];
    c->first_token = c->last_token = now();
    int len = sprintf(json, "{\"id\":\"chatcmpl-%ld\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"tiny\","
        "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%lld %lld\"},\"logprobs\":null,"
        "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":1000,\"total_tokens\":%d,\"completion_tokens\":%d}}",
        c->id, (long long)c->body_done, (long long)c->first_token, 1000 + c->tokens, c->tokens);
    note_answer(c);
    reply(c, "application/json", json, len);
}

// Requests

static const char *find(conn *c, const char *what) {
    char *p = memmem(c->first, c->first_len, what, strlen(what));
    return p ? p : memmem(c->last, c->last_len, what, strlen(what));
}

static long number_after(conn *c, const char *key) {
    const char *p = find(c, key);
    if (!p) return 0;
    const char *end = p >= c->last && p < c->last + c->last_len ? c->last + c->last_len : c->first + c->first_len;
    for (p += strlen(key); p < end && (*p == ' ' || *p == ':'); p++) {}
    long n = 0;
    for (; p < end && *p >= '0' && *p <= '9' && n < TOKENS_MAX; p++) n = n * 10 + (*p - '0');
    return n;
}

static void take_request(conn *c) {
    c->body_done = now();
    c->id = answers_total;
    long tokens = number_after(c, "\"max_completion_tokens\"");
    if (!tokens) tokens = number_after(c, "\"max_tokens\"");
    c->tokens = tokens > 0 && tokens < TOKENS_MAX ? (int)tokens : default_tokens;
    c->stream = find(c, "\"stream\":true") || find(c, "\"stream\": true");
    c->usage = find(c, "include_usage") != NULL;
    c->sent = 0;
    c->state = ANSWER;
    if (ttft == 0 && c->stream) send_token(c);
    else if (ttft == 0) send_whole(c);
    else push(&first_tokens, c, c->body_done + ttft);
}

static void reply_log(conn *c) {
    char *csv = must(malloc(answers_len * 140 + 100));
    size_t len = sprintf(csv, "first_read_ns,body_done_ns,first_token_ns,last_token_ns,body_bytes,tokens\n");
    for (size_t i = 0; i < answers_len; i++) {
        answer *a = &answers[i];
        len += sprintf(csv + len, "%lld,%lld,%lld,%lld,%ld,%d\n", (long long)a->first_read, (long long)a->body_done,
                       (long long)a->first_token, (long long)a->last_token, a->body_len, a->tokens);
    }
    answers_len = 0;
    reply(c, "text/csv", csv, len);
    free(csv);
}

static void reply_cpu(conn *c) {
    struct rusage use;
    char json[64];
    getrusage(RUSAGE_SELF, &use);
    double seconds = use.ru_utime.tv_sec + use.ru_stime.tv_sec + (use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
    reply(c, "application/json", json, sprintf(json, "{\"cpu_s\":%.6f}", seconds));
}

// What load generators ask before they start, besides our own two pages.
static void take_get(conn *c) {
    static const char models[] = "{\"object\":\"list\",\"data\":[{\"id\":\"tiny\",\"object\":\"model\",\"created\":1700000000,"
        "\"owned_by\":\"vllm\",\"root\":\"tiny\",\"parent\":null,\"max_model_len\":32768}]}";
    static const char metrics[] = "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model_name=\"tiny\"} 1.0\n"
        "# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{model_name=\"tiny\"} 0.0\n";
    const char *path = strchr(c->head, ' ');
    path = path ? path + 1 : "";
    if (!strncmp(path, "/truth/log", 10)) reply_log(c);
    else if (!strncmp(path, "/truth/cpu", 10)) reply_cpu(c);
    else if (!strncmp(path, "/v1/models", 10)) reply(c, "application/json", models, sizeof models - 1);
    else if (!strncmp(path, "/metrics", 8)) reply(c, "text/plain; version=0.0.4", metrics, sizeof metrics - 1);
    else if (!strncmp(path, "/version", 8)) reply(c, "application/json", "{\"version\":\"0.32.0\"}", 20);
    else reply(c, "application/json", "{}", 2);
}

static void read_head(conn *c) {
    c->body_len = c->body_got = 0;
    c->first_len = c->last_len = 0;
    for (char *line = strchr(c->head, '\n'); line; line = strchr(line, '\n')) {
        line++;
        if (!strncasecmp(line, "content-length:", 15)) c->body_len = strtol(line + 15, NULL, 10);
        else if (!strncasecmp(line, "expect:", 7)) {
            put(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
            flush(c);
        }
    }
}

static void keep_body(conn *c, const char *data, long len) {
    c->body_got += len;
    if (c->first_len < KEEP) {
        long n = len < KEEP - c->first_len ? len : KEEP - c->first_len;
        memcpy(c->first + c->first_len, data, n);
        c->first_len += n;
    }
    if (len >= KEEP) {
        memcpy(c->last, data + len - KEEP, KEEP);
        c->last_len = KEEP;
        return;
    }
    int stay = c->last_len < KEEP - len ? c->last_len : KEEP - len;
    memmove(c->last, c->last + c->last_len - stay, stay);
    memcpy(c->last + stay, data, len);
    c->last_len = stay + len;
}

static void feed(conn *c, const char *data, long len) {
    if (c->state == ANSWER) { drop(c); return; }  // nobody here pipelines
    if (c->state == IDLE) {
        if (c->head_len == 0) c->first_read = now();
        long room = HEAD_MAX - c->head_len, n = len < room ? len : room;
        memcpy(c->head + c->head_len, data, n);
        int from = c->head_len > 3 ? c->head_len - 3 : 0;
        char *end = memmem(c->head + from, c->head_len + n - from, "\r\n\r\n", 4);
        if (!end) {
            c->head_len += n;
            if (c->head_len == HEAD_MAX) drop(c);
            return;
        }
        long used = end + 4 - c->head - c->head_len;
        *end = 0;
        if (strncmp(c->head, "POST", 4)) { take_get(c); return; }
        read_head(c);
        if (!c->alive) return;
        c->state = BODY;
        data += used;
        len -= used;
    }
    if (len > 0) keep_body(c, data, len);
    if (c->body_got >= c->body_len) take_request(c);
}

// The loop

static void accept_all(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        conn *c = free_list;
        if (c) free_list = c->next_free;
        else c = must(calloc(1, sizeof *c));
        c->fd = fd;
        c->state = IDLE;
        c->alive = true;
        c->head_len = 0;
        c->out_len = 0;
        wait_for(c, EPOLL_CTL_ADD, false);
    }
}

static void serve(conn *c, unsigned events) {
    if (events & EPOLLOUT) flush(c);
    if (!c->alive || !(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
    ssize_t n = recv(c->fd, read_buffer, sizeof read_buffer, 0);
    if (n > 0) feed(c, read_buffer, n);
    else if (n == 0 || errno != EAGAIN) drop(c);
}

static void fire(queue *q, ns_t t) {
    for (timer *front_timer; (front_timer = front(q)) && front_timer->due <= t;) {
        conn *c = front_timer->c;
        q->head++;
        if (c->stream) send_token(c);
        else send_whole(c);
    }
}

static struct timespec *until_next(struct timespec *left) {
    timer *a = front(&first_tokens), *b = front(&next_tokens);
    if (!a && !b) return NULL;
    ns_t due = !b || (a && a->due < b->due) ? a->due : b->due;
    ns_t wait = due - now();
    if (wait < 0) wait = 0;
    *left = (struct timespec){wait / 1000000000, wait % 1000000000};
    return left;
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 4096) || getsockname(fd, (struct sockaddr *)&a, &len)) {
        perror("listen");
        exit(1);
    }
    printf("{\"port\": %d}\n", ntohs(a.sin_port));
    fflush(stdout);
    return fd;
}

static int options(int argc, char **argv) {
    int port = 0;
    const char *mode = argc > 1 ? argv[1] : "";
    burst = !strcmp(mode, "burst");
    tick = !strcmp(mode, "tick");
    if (!strcmp(mode, "paced")) { ttft = 50000000; itl = 5000000; }
    else if (tick) { ttft = 500000000; itl = 20000000; }
    else if (!burst) { fprintf(stderr, "usage: server burst|paced|tick [--ttft-us N] [--itl-us N] [--tokens N] [--port N]\n"); exit(2); }
    for (int i = 2; i + 1 < argc; i += 2) {
        long n = strtol(argv[i + 1], NULL, 10);
        if (!strcmp(argv[i], "--ttft-us")) ttft = n * 1000;
        else if (!strcmp(argv[i], "--itl-us")) itl = n * 1000;
        else if (!strcmp(argv[i], "--tokens")) default_tokens = (int)n;
        else if (!strcmp(argv[i], "--port")) port = (int)n;
    }
    return port;
}

int main(int argc, char **argv) {
    static struct epoll_event events[EVENTS];
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1000);
    prctl(PR_SET_PDEATHSIG, SIGTERM);  // never outlive the benchmark
    int listener = listen_on(options(argc, argv));
    epoll_fd = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        struct timespec left;
        int n = epoll_pwait2(epoll_fd, events, EVENTS, until_next(&left), NULL);
        for (int i = 0; i < n; i++) {
            conn *c = events[i].data.ptr;
            if (!c) accept_all(listener);
            else if (c->alive) serve(c, events[i].events);
        }
        ns_t t = now();
        fire(&first_tokens, t);
        fire(&next_tokens, t);
    }
}
