#define _GNU_SOURCE
#include "pairs.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_EVENTS = 512, READ_BYTES = 256 * 1024, MAX_PATH = 6 * 1024 };
static const uint64_t GREETING_NS = 10000000000ULL, SILENCE_NS = 2000000000ULL;

struct half *halves;
int half_count;
int poller;

void die(const char *what) {
  fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
  exit(1);
}

uint64_t clock_ns(clockid_t clock) {
  struct timespec time;
  if (clock_gettime(clock, &time) != 0) die("cannot read a clock (has the relay ended?)");
  return (uint64_t)time.tv_sec * 1000000000ULL + (uint64_t)time.tv_nsec;
}

uint64_t process_cpu_ns(int pid) {
  clockid_t clock;
  if (pid == 0) return 0;
  if (clock_getcpuclockid(pid, &clock) != 0) die("--pid");
  return clock_ns(clock);
}

static void drop(struct half *half) {
  if (half->fd < 0) return;
  close(half->fd);
  half->fd = -1;
}

void push(struct half *half) {
  if (half->fd < 0 || half->blocked || (half->allowed == half->sent && half->control_length == 0)) return;
  if (!half_send(half)) {
    faults.closed++;
    return drop(half);
  }
  if (!half->blocked) return;
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = half};
  if (epoll_ctl(poller, EPOLL_CTL_MOD, half->fd, &event) != 0) die("epoll_ctl");
}

static void unblock(struct half *half) {
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = half};
  if (epoll_ctl(poller, EPOLL_CTL_MOD, half->fd, &event) != 0) die("epoll_ctl");
  half->blocked = false;
  push(half);
}

static void pull(struct half *half) {
  static uint8_t room[READ_BYTES];
  ssize_t got = recv(half->fd, room, sizeof room, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) {
    faults.closed++;
    return drop(half);
  }
  if (!half_receive(half, room, (size_t)got)) return drop(half);
  push(half);
  push(half->mate);
}

void turn(int timeout_ms) {
  struct epoll_event events[MAX_EVENTS];
  int count = epoll_wait(poller, events, MAX_EVENTS, timeout_ms);
  if (count < 0 && errno != EINTR) die("epoll_wait");
  for (int i = 0; i < count; i++) {
    struct half *half = events[i].data.ptr;
    if (half->fd >= 0 && (events[i].events & EPOLLOUT)) unblock(half);
    if (half->fd >= 0 && (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))) pull(half);
  }
}

static bool all_greeted(void) {
  for (int i = 0; i < half_count; i++) {
    if (halves[i].fd >= 0 && !halves[i].greeted) return false;
  }
  return true;
}

/** Nothing under way: everything released has been sent and has arrived. */
static bool all_arrived(void) {
  for (int i = 0; i < half_count; i++) {
    struct half *half = &halves[i];
    if (half->fd < 0 || half->mate->fd < 0) continue;
    if (half->sent != half->allowed || half->mate->received != half->sent) return false;
  }
  return true;
}

static void expand(const char *path, int pair, char *out) {
  size_t length = 0;
  while (*path != 0) {
    char number[16] = {*path, 0};
    size_t taken = 1;
    if (strncmp(path, "{pair}", 6) == 0) taken = 6, snprintf(number, sizeof number, "%d", pair);
    size_t added = strlen(number);
    if (length + added >= MAX_PATH) errno = E2BIG, die("path");
    memcpy(out + length, number, added);
    length += added;
    path += taken;
  }
  out[length] = 0;
}

void connect_pairs(int pairs, int port, const char *user_path, const char *device_path) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  poller = epoll_create1(EPOLL_CLOEXEC);
  half_count = 2 * pairs;
  halves = calloc((size_t)half_count, sizeof *halves);
  if (poller < 0 || halves == NULL) die("start");
  for (int i = 0; i < half_count; i++) {
    char path[MAX_PATH];
    struct half *half = &halves[i];
    half->user = i % 2 == 0;
    half->mate = &halves[i ^ 1];
    expand(half->user ? user_path : device_path, i / 2, path);
    half_connect(half, &address, path);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = half};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, half->fd, &event) != 0) die("epoll_ctl");
  }
  uint64_t deadline = clock_ns(CLOCK_MONOTONIC) + GREETING_NS;
  while (!all_greeted()) {
    if (clock_ns(CLOCK_MONOTONIC) > deadline) errno = ETIMEDOUT, die("waiting for the greeting on all halves");
    turn(10);
  }
}

static uint64_t all_received(void) {
  uint64_t count = 0;
  for (int i = 0; i < half_count; i++) count += halves[i].received;
  return count;
}

uint64_t settle(void) {
  uint64_t lost = 0, seen = all_received(), deadline = clock_ns(CLOCK_MONOTONIC) + SILENCE_NS;
  while (!all_arrived() && clock_ns(CLOCK_MONOTONIC) < deadline) {
    turn(10);
    uint64_t received = all_received();
    if (received != seen) deadline = clock_ns(CLOCK_MONOTONIC) + SILENCE_NS;
    seen = received;
  }
  for (int i = 0; i < half_count; i++) {
    struct half *half = &halves[i];
    if (half->sent > half->mate->received) lost += half->sent - half->mate->received;
  }
  return lost;
}
