#define _GNU_SOURCE
#include "pairs.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>

#include "upgrade.h"

enum { MAX_EVENTS = 512, READ_BYTES = 256 * 1024, OTHER_FILES = 32, MAX_PROCESSES = 16 };
static const uint64_t PATIENCE_NS = 10000000000ULL, SILENCE_NS = 2000000000ULL;

struct half *halves;
int half_count;
int poller;
static int under_way;  // upgrades
static int processes[MAX_PROCESSES], process_count;  // that are the relay

void die(const char *what) {
  fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
  exit(1);
}

uint64_t clock_ns(clockid_t clock) {
  struct timespec time;
  if (clock_gettime(clock, &time) != 0) die("cannot read a clock (has the relay ended?)");
  return (uint64_t)time.tv_sec * 1000000000ULL + (uint64_t)time.tv_nsec;
}

int relay_pids(const char *list) {
  for (process_count = 0; process_count < MAX_PROCESSES; list++) {
    char *end;
    long pid = strtol(list, &end, 10);
    if (end == list || pid < 1 || pid > INT_MAX / 8 || (*end != ',' && *end != 0)) return 0;
    clockid_t clock;
    if (clock_getcpuclockid((pid_t)pid, &clock) != 0) die("--pid");
    processes[process_count++] = (int)pid;
    list = end;
    if (*end == 0) return processes[0];
  }
  return 0;
}

uint64_t relay_cpu_ns(void) {
  uint64_t sum = 0;
  for (int i = 0; i < process_count; i++) {
    clockid_t clock;
    if (clock_getcpuclockid(processes[i], &clock) != 0) die("--pid");
    sum += clock_ns(clock);
  }
  return sum;
}

void raise_open_files(uint64_t sockets) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) die("getrlimit");
  rlim_t needed = sockets + OTHER_FILES;
  if (limit.rlim_cur >= needed) return;
  rlim_t allowed = limit.rlim_max;
  limit.rlim_cur = needed;
  if (limit.rlim_max < needed) limit.rlim_max = needed;  // only root may
  if (setrlimit(RLIMIT_NOFILE, &limit) == 0) return;
  fprintf(stderr, "load: %llu sockets need a limit of open files (RLIMIT_NOFILE, ulimit -n) of %llu; %llu is the most allowed\n",
          (unsigned long long)sockets, (unsigned long long)needed, (unsigned long long)allowed);
  exit(1);
}

static void watch(struct half *half) {
  struct epoll_event event = {.events = (half->muted ? 0 : EPOLLIN) | (half->blocked ? EPOLLOUT : 0), .data.ptr = half};
  if (epoll_ctl(poller, EPOLL_CTL_MOD, half->fd, &event) != 0) die("epoll_ctl");
}

void push(struct half *half) {
  if (half->fd < 0 || half->blocked || (half->allowed == half->sent && half->control_length == 0)) return;
  if (!half_send(half)) {
    faults.closed++;
    return half_drop(half);
  }
  if (half->blocked) watch(half);
}

static void unblock(struct half *half) {
  half->blocked = false;
  watch(half);
  // Not push(): of TLS also what has been sent before may still wait.
  if (!half_send(half)) {
    faults.closed++;
    return half_drop(half);
  }
  if (half->blocked) watch(half);
}

void mute(struct half *half, bool muted) {
  half->muted = muted;
  if (half->fd >= 0) watch(half);
}

void pull(struct half *half, size_t limit) {
  static uint8_t room[READ_BYTES];
  if (half->fd < 0) return;
  const size_t size = limit < sizeof room ? limit : sizeof room;
  ssize_t got;
  do {
    got = transport_recv(half->fd, half->tls, room, size);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) break;
    if (got <= 0) {
      faults.closed++;
      return half_drop(half);
    }
    if (!half_receive(half, room, (size_t)got)) {
      faults.closed += half->close_received;
      return half_drop(half);
    }
  } while (half->tls != NULL && (size_t)got == size);  // the socket may be empty, and TLS hold more
  push(half);
  push(half->mate);
}

static void advance(struct half *half) {
  enum upgrade_state state = half_upgrade(half);
  if (state == UPGRADE_GOES_ON) return;
  if (state != UPGRADE_DONE) {
    fprintf(stderr, "load: %s\n", upgrade_failure);
    exit(1);
  }
  under_way--;
  if (half->close_received || half->violated) {
    faults.closed += half->close_received;
    return half_drop(half);
  }
  watch(half);
  push(half);
}

void turn(int timeout_ms) {
  struct epoll_event events[MAX_EVENTS];
  int count = epoll_wait(poller, events, MAX_EVENTS, timeout_ms);
  if (count < 0 && errno != EINTR) die("epoll_wait");
  for (int i = 0; i < count; i++) {
    struct half *half = events[i].data.ptr;
    if (half->upgrade != NULL) {
      advance(half);
      continue;
    }
    if (half->fd >= 0 && (events[i].events & EPOLLOUT)) unblock(half);
    if (half->fd >= 0 && (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))) {
      pull(half, half->turn_bytes == 0 ? READ_BYTES : half->turn_bytes);
    }
  }
}

/** Everything released has been sent and has arrived. */
static bool all_arrived(void) {
  for (int i = 0; i < half_count; i++) {
    struct half *half = &halves[i];
    if (half->fd < 0 || half->mate->fd < 0) continue;
    if (half->sent != half->allowed || half->mate->received != half->sent) return false;
  }
  return true;
}

void prepare_pairs(int pairs) {
  poller = epoll_create1(EPOLL_CLOEXEC);
  halves = calloc(2 * (size_t)pairs, sizeof *halves);
  if (poller < 0 || halves == NULL) die("start");
}

static void begin(struct half *half, const struct target *target) {
  int index = (int)(half - halves);
  half->user = index % 2 == 0;
  half->mate = &halves[index ^ 1];
  half_begin(half, half->user ? target->user_path : target->device_path, (uint64_t)index / 2);
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = half};
  if (epoll_ctl(poller, EPOLL_CTL_ADD, half->fd, &event) != 0) die("epoll_ctl");
  under_way++;
  advance(half);
}

/** How many of the halves from the `from`-th on are waited for: neither greeted nor lost. */
static int ungreeted(int from) {
  int count = 0;
  for (int i = from; i < half_count; i++) count += halves[i].fd >= 0 && !halves[i].greeted;
  return count;
}

void connect_more(int pairs, const struct target *target) {
  prepare_upgrades(target->port, target->sources);
  const int first = half_count, end = half_count + 2 * pairs;
  for (int i = first; i < end; i++) halves[i].fd = -1, halves[i].mate = &halves[i ^ 1];
  const int concurrency = target->concurrency > 0 ? target->concurrency : 1;
  const uint64_t start = clock_ns(CLOCK_MONOTONIC);
  uint64_t progress = start;
  for (int waiting = 1; half_count < end || under_way > 0 || waiting > 0;) {
    uint64_t now = clock_ns(CLOCK_MONOTONIC);
    if (now > progress + PATIENCE_NS) errno = ETIMEDOUT, die("waiting for the greeting on all halves");
    double due = target->halves_per_second > 0 ? (double)(now - start) / 1e9 * target->halves_per_second : end;
    const int begun = half_count, open = under_way;
    while (half_count < end && under_way < concurrency && half_count - first < due) begin(&halves[half_count++], target);
    turn(half_count < end && under_way < concurrency ? 1 : 10);
    int left = half_count < end || under_way > 0 ? 1 : ungreeted(first);
    if (left != waiting || half_count != begun || under_way != open) progress = clock_ns(CLOCK_MONOTONIC);
    waiting = left;
  }
}

void connect_pairs(int pairs, int port, const char *user_path, const char *device_path) {
  prepare_pairs(pairs);
  connect_more(pairs, &(struct target){.port = port, .user_path = user_path, .device_path = device_path, .sources = 1});
}

uint64_t waive_unsent(int first) {
  uint64_t count = 0;
  for (int i = first; i < half_count; i++) {
    uint64_t begun = halves[i].sent + (halves[i].frame_offset > 0);
    count += halves[i].allowed - begun;
    halves[i].allowed = begun;
  }
  return count;
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

uint64_t print_errors(uint64_t lost) {
  printf("\"errors\":{\"order\":%llu,\"content\":%llu,\"protocol\":%llu,\"closed\":%llu,\"lost\":%llu}",
         (unsigned long long)faults.order, (unsigned long long)faults.content, (unsigned long long)faults.protocol,
         (unsigned long long)faults.closed, (unsigned long long)lost);
  return faults.order + faults.content + faults.protocol + faults.closed + lost;
}
