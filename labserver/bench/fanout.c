/* The bound that `labserver bench` measures beside the others: one process, epoll, and one send() per reader.

   fanout FD          FD is a listening socket; it ends when its standard input does

   What comes as a text frame on /publish goes to all readers of /ws as one frame, and to all of /sse as one event. It
   speaks as much HTTP and WebSocket as its load generator needs, and answers the sample key of RFC 6455, 1.3. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROOM (1 << 16)
enum { NEW, PUBLISHER, WS, SSE };

typedef struct Peer {
    int fd, kind, place;
    size_t held;
    unsigned char *data; /* what came and is not handled yet */
    struct Peer *next;   /* ended before this one */
} Peer;

static Peer **of[4], *ended;
static int many[4], room[4], poll_fd;
static unsigned char out[ROOM + 64];

static void enter(Peer *peer, int kind) {
    if (many[kind] == room[kind]) of[kind] = realloc(of[kind], sizeof **of * (size_t)(room[kind] = room[kind] * 2 + 64));
    peer->kind = kind;
    peer->place = many[kind];
    of[kind][many[kind]++] = peer;
}
static void leave(Peer *peer) {
    Peer *last = of[peer->kind][--many[peer->kind]];
    of[peer->kind][last->place = peer->place] = last;
}
static void end(Peer *peer) { /* its memory stays until no event at hand can name it */
    leave(peer);
    close(peer->fd);
    peer->fd = -1;
    peer->next = ended;
    ended = peer;
}
static void bury(void) {
    for (Peer *peer; (peer = ended);) {
        ended = peer->next;
        free(peer->data);
        free(peer);
    }
}
static void to_all(int kind, const void *data, size_t size) {
    for (int i = many[kind] - 1; i >= 0; i--) /* one who is ended gives its place to the last, who has been served */
        if (send(of[kind][i]->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)size) end(of[kind][i]);
}
static void fan_out(const unsigned char *text, size_t size) {
    size_t head = size < 126 ? 2 : 4;
    out[0] = 0x81;
    out[1] = size < 126 ? (unsigned char)size : 126;
    if (size >= 126) out[2] = (unsigned char)(size >> 8), out[3] = (unsigned char)size;
    memcpy(out + head, text, size);
    if (many[WS]) to_all(WS, out, head + size);
    head = (size_t)sprintf((char *)out, "%zx\r\ndata: ", size + 8);
    memcpy(out + head, text, size);
    memcpy(out + head + size, "\n\n\r\n", 4);
    if (many[SSE]) to_all(SSE, out, head + size + 4);
}
static size_t frame(unsigned char *data, size_t held) { /* handle one frame of a client; return its bytes, 0: not whole */
    size_t size = held < 2 ? 0 : data[1] & 0x7F, head = size == 126 ? 8 : 6;
    if (held < head) return 0;
    if (size == 126) size = (size_t)data[2] << 8 | data[3];
    if (held < head + size || size > ROOM) return 0;
    for (size_t i = 0; i < size; i++) data[head + i] ^= data[head - 4 + (i & 3)];
    if ((data[0] & 0x0F) == 1) fan_out(data + head, size);
    return head + size;
}
static void greet(Peer *peer) {
    static const char upgrade[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                  "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    static const char stream[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
                                 "Transfer-Encoding: chunked\r\n\r\n";
    int kind = !memcmp(peer->data, "GET /sse ", 9) ? SSE : !memcmp(peer->data, "GET /publish ", 13) ? PUBLISHER : WS;
    const char *answer = kind == SSE ? stream : upgrade;
    leave(peer);
    enter(peer, kind);
    if (send(peer->fd, answer, strlen(answer), MSG_NOSIGNAL) < 0) peer->held = 0;
}
static void take(Peer *peer) {
    ssize_t n = recv(peer->fd, peer->data + peer->held, ROOM - peer->held, MSG_DONTWAIT);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN) end(peer);
        return;
    }
    size_t begin = 0;
    peer->held += (size_t)n;
    if (peer->kind == NEW) {
        unsigned char *over = memmem(peer->data, peer->held, "\r\n\r\n", 4);
        if (!over) return;
        begin = (size_t)(over + 4 - peer->data);
        greet(peer);
    }
    for (size_t size; begin < peer->held && (size = frame(peer->data + begin, peer->held - begin)); begin += size)
        continue;
    memmove(peer->data, peer->data + begin, peer->held -= begin);
}
static void add(int fd, Peer *peer) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event);
}
int main(int size, char **given) {
    static Peer listener, lifeline;
    struct epoll_event events[256];
    struct rlimit files;
    int on = 1, fd;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    poll_fd = epoll_create1(0);
    if (size < 2) return 2;
    add(listener.fd = atoi(given[1]), &listener);
    add(0, &lifeline);
    for (;;) {
        int found = epoll_wait(poll_fd, events, 256, -1);
        for (int i = 0; i < found; i++) {
            Peer *peer = events[i].data.ptr;
            if (peer == &lifeline) return 0;
            if (peer != &listener) {
                if (peer->fd >= 0) take(peer);
            } else if ((fd = accept(listener.fd, NULL, NULL)) >= 0) {
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                peer = calloc(1, sizeof *peer);
                peer->fd = fd;
                peer->data = malloc(ROOM);
                enter(peer, NEW);
                add(fd, peer);
            }
        }
        bury();
    }
}
