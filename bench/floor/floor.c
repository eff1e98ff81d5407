// The floor: what a WebSocket relay costs at the least on this kernel. One thread, epoll (level-triggered), one recv
// per readable event, unmask, one send. No authentication, no limits, no time-outs, no counters; correct all the same:
// nothing is lost or reordered however frames are split, and a slow receiver stops its sender from being read.
// Control frames are forwarded like all others, so pings and closing run end to end between the two halves; when both
// have said goodbye the floor ends the connections.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "accept.h"
#include "frame.h"

enum { READ_BYTES = 512 * 1024, REQUEST_BYTES = 16 * 1024, MAX_EVENTS = 512, MAX_ID = 256 };

struct half {
  int fd;              // -1 once closed; the memory goes when the current batch of events is done
  struct half *mate;   // set while paired
  struct half *next;   // in the list of waiting halves, or of closed ones
  uint32_t events;     // what epoll watches now
  bool ended;          // its end of stream was read; the mate's direction may still be open
  struct frame_state frames;
  uint8_t *backlog;    // what the socket did not take; while it is there the mate is not read
  size_t backlog_start, backlog_end;
  char *request;       // the upgrade request, and what the client sent behind it; gone once paired
  size_t request_length, request_end;
  char id[MAX_ID + 1];
};

static int poller;
static struct half *waiting, *closed;
static uint8_t read_room[MAX_HEADER + READ_BYTES];

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void watch(struct half *half, uint32_t events) {
  if (half->fd < 0 || half->events == events) return;
  struct epoll_event event = {.events = events, .data.ptr = half};
  if (epoll_ctl(poller, EPOLL_CTL_MOD, half->fd, &event) != 0) fail("epoll_ctl");
  half->events = events;
}

static void close_half(struct half *half) {
  if (half->fd < 0) return;
  for (struct half **at = &waiting; *at != NULL; at = &(*at)->next) {
    if (*at == half) {
      *at = half->next;
      break;
    }
  }
  close(half->fd);
  half->fd = -1;
  half->next = closed;
  closed = half;
}

static void close_pair(struct half *half) {
  if (half->mate != NULL) close_half(half->mate);
  close_half(half);
}

static void free_closed(void) {
  while (closed != NULL) {
    struct half *half = closed;
    closed = half->next;
    free(half->backlog);
    free(half->request);
    free(half);
  }
}

/** Writes to a half without backlog; what its socket does not take becomes its backlog and pauses the mate. */
static bool send_to(struct half *half, const uint8_t *data, size_t length) {
  ssize_t sent = send(half->fd, data, length, MSG_NOSIGNAL);
  if (sent < 0 && errno != EAGAIN && errno != EINTR) return false;
  if (sent < 0) sent = 0;
  if ((size_t)sent == length) return true;
  if (half->mate == NULL) return false;  // not even the upgrade's answer fits: not a peer to wait for
  half->backlog_start = 0;
  half->backlog_end = length - (size_t)sent;
  half->backlog = malloc(half->backlog_end);
  if (half->backlog == NULL) fail("malloc");
  memcpy(half->backlog, data + sent, half->backlog_end);
  watch(half, half->events | EPOLLOUT);
  watch(half->mate, half->mate->events & ~(uint32_t)EPOLLIN);
  return true;
}

/** A close frame has passed this way, all of it. */
static bool said_goodbye(const struct half *half) {
  return half->frames.closing && half->frames.payload_left == 0 && half->frames.carried == 0;
}

/** As a server does (RFC 6455, 7.1.1), the floor ends the connections once both sides have said goodbye. */
static void end_if_done(struct half *half) {
  if (!half->frames.closing || half->fd < 0) return;
  struct half *mate = half->mate;
  if (said_goodbye(half) && said_goodbye(mate) && half->backlog == NULL && mate->backlog == NULL) close_pair(half);
}

static void flush_backlog(struct half *half) {
  ssize_t sent = send(half->fd, half->backlog + half->backlog_start, half->backlog_end - half->backlog_start, MSG_NOSIGNAL);
  if (sent < 0) {
    if (errno != EAGAIN && errno != EINTR) close_pair(half);
    return;
  }
  half->backlog_start += (size_t)sent;
  if (half->backlog_start < half->backlog_end) return;
  free(half->backlog);
  half->backlog = NULL;
  watch(half, half->events & ~(uint32_t)EPOLLOUT);
  if (!half->mate->ended) watch(half->mate, half->mate->events | EPOLLIN);
  end_if_done(half);
}

static void forward(struct half *half, uint8_t *data, size_t length) {
  uint8_t *output;
  ptrdiff_t produced = rewrite_frames(&half->frames, data, length, &output);
  if (produced < 0 || (produced > 0 && !send_to(half->mate, output, (size_t)produced))) return close_pair(half);
  end_if_done(half);
}

static void read_paired(struct half *half) {
  ssize_t got = recv(half->fd, read_room + MAX_HEADER, READ_BYTES, 0);
  if (got > 0) return forward(half, read_room + MAX_HEADER, (size_t)got);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got < 0 || half->mate->ended) return close_pair(half);
  // Half-close: closing outright would reset the mate's connection and take back what it has not read yet.
  half->ended = true;
  watch(half, half->events & ~(uint32_t)EPOLLIN);
  shutdown(half->mate->fd, SHUT_WR);
}

static void pair(struct half *half, struct half *mate) {
  half->mate = mate;
  mate->mate = half;
  static const uint8_t greeting[] = {0x81, 1, 'c'};
  if (!send_to(half, greeting, sizeof greeting) || !send_to(mate, greeting, sizeof greeting)) return close_pair(half);
  watch(half, EPOLLIN);
  watch(mate, EPOLLIN);
  struct half *both[] = {mate, half};
  for (int i = 0; i < 2 && both[i]->fd >= 0; i++) {
    size_t early = both[i]->request_length - both[i]->request_end;
    memcpy(read_room + MAX_HEADER, both[i]->request + both[i]->request_end, early);
    if (early > 0) forward(both[i], read_room + MAX_HEADER, early);
    free(both[i]->request);
    both[i]->request = NULL;
  }
}

/** Finds the `id` query parameter in the request line; false where there is none or it is too long. */
static bool read_id(struct half *half) {
  char *line_end = strstr(half->request, "\r\n");
  for (char *at = strchr(half->request, '?'); at != NULL && at < line_end; at = strchr(at + 1, '&')) {
    if (strncmp(at + 1, "id=", 3) != 0) continue;
    size_t length = strcspn(at + 4, "& \r");
    if (length == 0 || length > MAX_ID) return false;
    memcpy(half->id, at + 4, length);
    half->id[length] = 0;
    return true;
  }
  return false;
}

static void read_request(struct half *half) {
  ssize_t got = recv(half->fd, half->request + half->request_length, REQUEST_BYTES - half->request_length, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) return close_half(half);
  half->request_length += (size_t)got;
  half->request[half->request_length] = 0;
  char *end = strstr(half->request, "\r\n\r\n");
  if (end == NULL) {
    if (half->request_length == REQUEST_BYTES) close_half(half);
    return;
  }
  half->request_end = (size_t)(end + 4 - half->request);
  char *key = strcasestr(half->request, "\r\nSec-WebSocket-Key: ");
  if (!read_id(half) || key == NULL || key > end || strcspn(key + 21, "\r") != 24) return close_half(half);
  char accept_value[29], answer[160];
  websocket_accept(key + 21, accept_value);
  int length = snprintf(answer, sizeof answer,
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Accept: %s\r\n\r\n", accept_value);
  if (!send_to(half, (uint8_t *)answer, (size_t)length)) return close_half(half);
  watch(half, EPOLLRDHUP);  // what a waiting half sends stays in the kernel; only its hang-up is of interest
  for (struct half **at = &waiting; *at != NULL; at = &(*at)->next) {
    if (strcmp((*at)->id, half->id) != 0) continue;
    struct half *mate = *at;
    *at = mate->next;
    return pair(half, mate);
  }
  half->next = waiting;
  waiting = half;
}

static void accept_half(int listener) {
  int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) {
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return;
    fail("accept");
  }
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
  struct half *half = calloc(1, sizeof *half);
  if (half == NULL || (half->request = malloc(REQUEST_BYTES + 1)) == NULL) fail("malloc");
  half->fd = fd;
  half->events = EPOLLIN;
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = half};
  if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) != 0) fail("epoll_ctl");
}

int main(void) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  struct rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) fail("getrlimit");
  files.rlim_cur = files.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &files) != 0) fail("setrlimit");
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  if (bind(listener, (struct sockaddr *)&address, size) != 0 || listen(listener, 4096) != 0) fail("listen");
  if (getsockname(listener, (struct sockaddr *)&address, &size) != 0) fail("getsockname");
  poller = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event events[MAX_EVENTS] = {{.events = EPOLLIN, .data.ptr = NULL}};
  if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, listener, events) != 0) fail("epoll");
  printf("{\"msg\":\"listening\",\"address\":\"127.0.0.1:%d\"}\n", ntohs(address.sin_port));
  fflush(stdout);
  for (;;) {
    int count = epoll_wait(poller, events, MAX_EVENTS, -1);
    if (count < 0 && errno != EINTR) fail("epoll_wait");
    for (int i = 0; i < count; i++) {
      struct half *half = events[i].data.ptr;
      if (half == NULL) {
        accept_half(listener);
        continue;
      }
      uint32_t ready = events[i].events;
      if (half->fd >= 0 && (ready & EPOLLOUT) && half->backlog != NULL) flush_backlog(half);
      if (half->fd < 0) continue;
      // An earlier event of this batch may have paused this half: what epoll reported for it no longer counts.
      if ((ready & EPOLLIN) && (half->events & EPOLLIN)) half->mate != NULL ? read_paired(half) : read_request(half);
      else if (ready & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)) close_pair(half);
    }
    free_closed();
  }
}
