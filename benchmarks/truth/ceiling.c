// The truth server's own ceiling: a client that does as little as one can. Sends the same request over and over on N connections
// and looks at nothing of the answer but its end. Against a paced server its CPU time is the floor of any client: one wake-up and one
// read per token, one write per request, and nothing done with them.
//
//   ceiling PORT CONNECTIONS REQUESTS BODY_FILE        prints {"rps": R, "cpu_ms": user and system time per request}
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char *request;
static size_t request_len;

static void fail(const char *what) { perror(what); exit(1); }

static void load(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) fail(path);
    fseek(f, 0, SEEK_END);
    long body = ftell(f);
    rewind(f);
    if (!(request = malloc(body + 200))) fail("memory");
    request_len = sprintf(request, "POST /v1/chat/completions HTTP/1.1\r\nhost: truth\r\ncontent-length: %ld\r\n\r\n", body);
    if (fread(request + request_len, 1, body, f) != (size_t)body) fail(path);
    request_len += body;
}

static void send_request(int fd) {
    for (size_t done = 0; done < request_len;) {
        ssize_t n = send(fd, request + done, request_len - done, MSG_NOSIGNAL);
        if (n < 0) fail("send");
        done += n;
    }
}

int main(int argc, char **argv) {
    static char buffer[1 << 16];
    if (argc != 5) { fprintf(stderr, "usage: ceiling PORT CONNECTIONS REQUESTS BODY_FILE\n"); return 2; }
    int connections = atoi(argv[2]), wanted = atoi(argv[3]), begun = 0, ended = 0, one = 1;
    load(argv[4]);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int ep = epoll_create1(0);
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int i = 0; i < connections && begun < wanted; i++, begun++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&a, sizeof a)) fail("connect");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
        send_request(fd);
    }
    while (ended < wanted) {
        struct epoll_event events[256];
        int n = epoll_wait(ep, events, 256, 10000);
        if (n <= 0) fail("no answer");
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            ssize_t got = recv(fd, buffer, sizeof buffer, 0);
            if (got <= 0) fail("recv");
            // The end of an answer comes in one write with the rest of it (burst) or as the end of the last one.
            if (got < 5 || memcmp(buffer + got - 5, "0\r\n\r\n", 5)) continue;
            ended++;
            if (begun < wanted) { begun++; send_request(fd); }
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    double seconds = end.tv_sec - start.tv_sec + (end.tv_nsec - start.tv_nsec) / 1e9;
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    double cpu = use.ru_utime.tv_sec + use.ru_stime.tv_sec + (use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
    printf("{\"rps\": %.1f, \"cpu_ms\": %.4f}\n", wanted / seconds, 1e3 * cpu / wanted);
    return 0;
}
