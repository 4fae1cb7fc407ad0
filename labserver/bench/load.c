/* The load generator of `labserver bench`: readers on raw sockets, one publisher, one thread, epoll.

   load fanout port=P pid=P [path= publish= kind=ws|sse readers= flight= size= warmup= seconds= patience= stalled=
        frames=0|1 deflate=0|1 hello= greet= head= tail=]
   load get port=P pid=P path= [lines=0|1]

   It prints one line of JSON. `load.py` does the same in Python, where there is no compiler. A message carries its
   number as @0000000001#, wherever a server's own framing puts it; with frames=1 (compressed messages) frames are
   counted instead. All times are in microseconds, CPU is that of the process `pid`. It speaks to 127.0.0.1 alone. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 1024 /* numbers in flight at most */
#define LATE (1 << 20) /* latencies are counted per microsecond up to this */
#define MARK 12 /* bytes of @0000000001# */
#define WAIT 10 /* seconds that a handshake may take */
#define STALL 1e6 /* a stalled reader is replaced after this: who is cut off may not hear of it */
#define QUIET 2.5e5 /* silence after which all that greets the readers has come */

typedef struct {
    int fd, held, first;
    unsigned char carry[16];
    long last, skip;
    uint64_t seen; /* bit k: last - k was received */
} Reader;

static char **arguments;
static unsigned char buffer[1 << 20];
static uint32_t late[LATE];
static long left[SLOTS];
static double sent[SLOTS];
static Reader *readers, publisher;
static int stalled = -1;
static double restall;
static int poll_fd, count, frames, measuring, is_sse;
static long published, done, deliveries, lost, doubled, disordered, gone, returned, compressed, fresh;
static clockid_t server_clock;

static const char *text(const char *name, const char *otherwise) {
    size_t size = strlen(name);
    for (char **each = arguments; *each; each++)
        if (!strncmp(*each, name, size) && (*each)[size] == '=') otherwise = *each + size + 1; /* the last one */
    return otherwise;
}
static double number(const char *name, double otherwise) {
    const char *found = text(name, NULL);
    return found ? atof(found) : otherwise;
}
static double clock_us(clockid_t clock) {
    struct timespec at;
    return clock_gettime(clock, &at) ? 0 : at.tv_sec * 1e6 + at.tv_nsec / 1e3;
}
static double now(void) { return clock_us(CLOCK_MONOTONIC); }
static void fail(const char *why) {
    printf("{\"error\": \"%s\"}\n", why);
    exit(1);
}

/* ---- connections */

static int dial(int receive_buffer) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number("port", 0))};
    struct timeval wait = {WAIT, 0};
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (receive_buffer) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) fail("the server does not accept a connection");
    return fd;
}
static void put(int fd, const void *data, size_t size) {
    for (const char *at = data; size;) {
        ssize_t n = send(fd, at, size, MSG_NOSIGNAL);
        if (n < 0) fail("the server does not take what is sent");
        at += n;
        size -= (size_t)n;
    }
}
static void ask(int fd, const char *path, int upgrade) {
    char request[2048];
    const char *extension = number("deflate", 0) ? "Sec-WebSocket-Extensions: permessage-deflate\r\n" : "";
    int size = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\n", path, text("port", "0"));
    size += snprintf(request + size, sizeof request - (size_t)size,
                     upgrade ? "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                               "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n"
                             : "Accept: */*\r\n%s\r\n",
                     upgrade ? extension : "Connection: close\r\n");
    put(fd, request, (size_t)size);
}
static size_t masked(unsigned char *to, const char *data, size_t size) {
    size_t at = 0;
    to[at++] = 0x81;
    to[at++] = (unsigned char)(0x80 | (size < 126 ? size : 126));
    if (size >= 126) to[at++] = (unsigned char)(size >> 8), to[at++] = (unsigned char)size;
    for (int i = 0; i < 4; i++) to[at++] = (unsigned char)(0x11 << i);
    for (size_t i = 0; i < size; i++) to[at++] = (unsigned char)data[i] ^ (unsigned char)(0x11 << (i & 3));
    return at;
}
static void say(int fd, const char *lines) { /* each line a text frame */
    unsigned char frame[2048];
    while (*lines) {
        size_t size = strcspn(lines, "\n");
        put(fd, frame, masked(frame, lines, size));
        lines += size + (lines[size] == '\n');
    }
}
static void watch(Reader *who) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = who};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, who->fd, &event);
}

/* ---- what comes */

static void received(Reader *who, long found, double at) {
    long step = found - who->last;
    if (found > published || found <= 0) {
        doubled++; /* more than was ever published */
        return;
    }
    if (!who->last) who->last = found - 1, step = 1; /* its first one: it entered just now */
    if (step > 0) {
        for (long each = who->last + 1; each < found; each++) lost++, left[each % SLOTS]--;
        who->seen = step < 64 ? who->seen << step : 0;
        who->seen |= 1;
        who->last = found;
        left[found % SLOTS]--;
        fresh += found == published;
        deliveries++;
        if (measuring) {
            double took = at - sent[found % SLOTS];
            late[took < LATE - 1 ? (long)took : LATE - 1]++;
        }
    } else if (step <= -64 || who->seen >> -step & 1) {
        doubled++;
    } else {
        who->seen |= (uint64_t)1 << -step;
        disordered++, lost--, deliveries++;
    }
}
static void scan_marks(Reader *who, unsigned char *data, size_t size, double at) {
    unsigned char *end = data + size, *mark = data;
    while ((mark = memchr(mark, '@', (size_t)(end - mark)))) {
        if (end - mark < MARK) {
            memcpy(who->carry, mark, (size_t)(who->held = (int)(end - mark)));
            return;
        }
        long found = 0;
        int digits = 1;
        while (digits < MARK - 1 && mark[digits] >= '0' && mark[digits] <= '9') found = found * 10 + mark[digits++] - '0';
        if (digits == MARK - 1 && mark[digits] == '#') received(who, found, at);
        mark++;
    }
}
static void scan_frames(Reader *who, unsigned char *data, size_t size, double at) {
    unsigned char *end = data + size;
    while (data < end) {
        if (who->skip) {
            long step = end - data < who->skip ? end - data : who->skip;
            who->skip -= step;
            data += step;
            continue;
        }
        size_t head = end - data < 2 ? 2 : data[1] < 126 ? 2 : data[1] == 126 ? 4 : 10;
        if ((size_t)(end - data) < head) {
            memcpy(who->carry, data, (size_t)(who->held = (int)(end - data)));
            return;
        }
        who->skip = head == 2 ? data[1] : 0;
        for (size_t i = 2; i < head; i++) who->skip = who->skip << 8 | data[i];
        compressed += data[0] == 0xC1;
        if ((data[0] & 0x0F) == 1 && published) received(who, who->last ? who->last + 1 : published, at);
        data += head;
    }
}
static void take(Reader *who) {
    memcpy(buffer, who->carry, (size_t)who->held);
    ssize_t n = recv(who->fd, buffer + who->held, sizeof buffer - sizeof who->carry, MSG_DONTWAIT);
    if (n > 0) {
        size_t size = (size_t)(n + who->held);
        who->held = 0;
        if (who == &publisher) return;
        (frames ? scan_frames : scan_marks)(who, buffer, size, now());
    } else if (n == 0 || errno != EAGAIN) {
        gone++;
        close(who->fd);
    }
}
static void open_reader(Reader *who, const char *path, int upgrade, const char *hello) {
    char head[4096];
    int size = 0;
    who->fd = dial(0);
    ask(who->fd, path, upgrade);
    while (size < 4 || memcmp(head + size - 4, "\r\n\r\n", 4)) /* byte by byte: what follows is left in the socket */
        if (size == sizeof head || recv(who->fd, head + size, 1, 0) != 1) fail("the server does not answer a handshake");
        else size++;
    if (memcmp(head, upgrade ? "HTTP/1.1 101" : "HTTP/1.1 200", 12)) fail("the server refused a connection");
    if (upgrade) say(who->fd, hello);
    watch(who);
}
static void stall(void) { /* it asks, and never reads, not even the answer */
    if (stalled >= 0) close(stalled), returned++;
    stalled = dial(4096);
    ask(stalled, text("path", "/ws"), !is_sse);
    restall = now() + STALL;
}
/* Handle what is there, at most until `until`; return the number of events. */
static int turn(double until) {
    struct epoll_event events[256];
    double wait = (until - now()) / 1000;
    int found = epoll_wait(poll_fd, events, 256, wait <= 0 ? 0 : (int)wait + 1);
    for (int i = 0; i < found; i++) take(events[i].data.ptr);
    if (stalled >= 0 && now() > restall) stall();
    while (done < published && left[(done + 1) % SLOTS] <= 0) done++;
    return found;
}
static void publish(int messages) {
    static unsigned char frames_out[SLOTS * 64];
    static char message[1 << 16];
    int size = (int)number("size", 100), at = 0;
    for (int each = 0; each < messages; each++) {
        published++;
        left[published % SLOTS] = count;
        int head = snprintf(message, sizeof message, "%s{\"n\":\"@%010ld#\",\"pad\":\"", text("head", ""), published);
        int pad = size - (head - (int)strlen(text("head", ""))) - 2;
        memset(message + head, 'x', (size_t)(pad > 0 ? pad : 0));
        head += pad > 0 ? pad : 0;
        head += snprintf(message + head, sizeof message - (size_t)head, "\"}%s", text("tail", ""));
        if (at + head + 14 > (int)sizeof frames_out) put(publisher.fd, frames_out, (size_t)at), at = 0;
        at += (int)masked(frames_out + at, message, (size_t)head);
        sent[published % SLOTS] = now();
    }
    put(publisher.fd, frames_out, (size_t)at);
}

/* ---- the two ways */

static double percentile(double part) {
    double total = 0, sum = 0;
    for (int i = 0; i < LATE; i++) total += late[i];
    for (int i = 0; i < LATE; i++)
        if ((sum += late[i]) >= part * total) return i;
    return 0;
}
static void fanout(void) {
    double patience = number("patience", 5) * 1e6, end, begun = 0, moved, server = 0, self = 0;
    int flight = (int)number("flight", 1);
    long before = 0, first = 0;
    count = (int)number("readers", 1000);
    frames = (int)number("frames", 0);
    is_sse = !strcmp(text("kind", "ws"), "sse");
    readers = calloc((size_t)count, sizeof *readers);
    for (int i = 0; i < count; i++) open_reader(&readers[i], text("path", "/ws"), !is_sse, text("hello", ""));
    open_reader(&publisher, text("publish", "/publish"), 1, text("greet", ""));
    for (end = now() + 20 * QUIET; turn(now() + QUIET) && now() < end;) continue;
    if (number("stalled", 0)) stall();
    for (int tries = 0; fresh < count && !gone; tries++) { /* until one message has reached all: all are subscribed */
        if (tries == 10) fail("some readers never get a message");
        fresh = 0;
        publish(1);
        for (end = now() + patience; fresh < count && now() < end && !gone;) turn(now() + 1e4);
    }
    for (int i = 0; i < count; i++) readers[i].last = published; /* what was missed before does not count */
    done = published, deliveries = lost = doubled = disordered = compressed = 0;
    moved = now();
    end = moved + number("warmup", 0.3) * 1e6;
    while (!gone && now() - moved < patience) {
        if (done > before) before = done, moved = now();
        if (now() < end || done < published) {
            if (now() < end && published - done < flight) publish(flight - (int)(published - done)), moved = now();
        } else if (!measuring) { /* begins and ends when nothing is in flight */
            measuring = 1, first = done, begun = now(), deliveries = 0;
            end = begun + number("seconds", 1.5) * 1e6;
            server = clock_us(server_clock), self = clock_us(CLOCK_PROCESS_CPUTIME_ID);
        } else break;
        turn(now() + 1e4);
    }
    double over = now(), server_end = clock_us(server_clock), self_end = clock_us(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < count; i++) lost += published - readers[i].last;
    double p50 = percentile(.5), p99 = percentile(.99);
    for (end = over + 2e4; now() < end && !gone;) turn(end); /* does anything come that should not? */
    printf("{\"elapsed\": %.1f, \"server\": %.1f, \"self\": %.1f, \"messages\": %ld, \"deliveries\": %ld, \"lost\": %ld, "
           "\"doubled\": %ld, \"disordered\": %ld, \"gone\": %ld, \"returned\": %ld, \"compressed\": %ld, "
           "\"p50\": %.1f, \"p99\": %.1f}\n", over - begun, server_end - server, self_end - self, done - first, deliveries,
           lost, doubled, disordered, gone, returned, compressed, p50, p99);
}
static void get(void) {
    int lines = (int)number("lines", 0), fd = dial(0);
    double begun = now(), server = clock_us(server_clock), self = clock_us(CLOCK_PROCESS_CPUTIME_ID), first = 0;
    long total = 0, found = 0;
    char head[4096] = "";
    unsigned char last = 0;
    ssize_t n;
    ask(fd, text("path", "/"), 0);
    for (size_t size = 0; size < 4 || memcmp(head + size - 4, "\r\n\r\n", 4); size++)
        if (size == sizeof head - 1 || recv(fd, head + size, 1, 0) != 1) fail("the server does not answer");
    if (memcmp(head, "HTTP/1.1 200", 12)) fail("the server refused the request");
    while ((n = recv(fd, buffer, sizeof buffer, first && !lines ? MSG_TRUNC : 0)) > 0) {
        if (!first) first = now() - begun;
        for (unsigned char *at = buffer; lines && (at = memchr(at, '\n', (size_t)(buffer + n - at))); at++)
            found += (at == buffer ? last : at[-1]) == '}';
        last = buffer[n - 1];
        total += n;
    }
    if (n < 0) fail("the response was cut");
    printf("{\"elapsed\": %.1f, \"server\": %.1f, \"self\": %.1f, \"first\": %.1f, \"bytes\": %ld, \"lines\": %ld}\n",
           now() - begun, clock_us(server_clock) - server, clock_us(CLOCK_PROCESS_CPUTIME_ID) - self, first, total, found);
}
int main(int size, char **given) {
    struct rlimit files;
    arguments = given + 1;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    poll_fd = epoll_create1(0);
    if (clock_getcpuclockid((pid_t)number("pid", 0), &server_clock)) fail("there is no such server process");
    if (size < 2) fail("say fanout or get");
    (strcmp(given[1], "get") ? fanout : get)();
    return 0;
}
