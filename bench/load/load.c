// Load generator: N pairs of halves through one relay, from one thread. Both halves of a pair live here, so the
// receiver's count releases the sender directly and no message is spent on acknowledgements.
//   pipeline   the user half keeps W messages in flight to the device half
//   pingpong   the user half keeps W messages in flight, the device half sends one back for each; round trips are timed
// Prints one JSON object: what went through in the measured interval and what CPU time the relay used for it.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "half.h"
#include "histogram.h"

enum { MAX_EVENTS = 512, READ_BYTES = 256 * 1024, BATCH_BYTES = 512 * 1024, MAX_PATH = 6 * 1024, SILENCE_SECONDS = 2 };

static struct {
  bool pingpong;
  int port, pairs, window, pid;
  size_t payload_bytes;
  double warmup_seconds, duration_seconds;
  const char *user_path, *device_path;
} options = {.port = 0, .pairs = 1, .window = 1, .payload_bytes = 64, .warmup_seconds = 1, .duration_seconds = 2};

/** What is known at one moment; the difference of two is the measured interval. */
struct snapshot {
  uint64_t at, messages, own_cpu, relay_cpu;  // nanoseconds, counts
};

static struct half *halves;
static uint64_t messages;
static bool stopping;
static uint64_t *sent_at;  // ping-pong: when each message in flight was released, `window` entries per pair
static struct histogram round_trips;
static int poller;

static void die(const char *what) {
  fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
  exit(1);
}

static uint64_t clock_ns(clockid_t clock) {
  struct timespec time;
  if (clock_gettime(clock, &time) != 0) die("cannot read a clock (has the relay ended?)");
  return (uint64_t)time.tv_sec * 1000000000ULL + (uint64_t)time.tv_nsec;
}

static struct snapshot snapshot(void) {
  struct snapshot now = {.at = clock_ns(CLOCK_MONOTONIC), .messages = messages, .own_cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID)};
  clockid_t relay;
  if (options.pid == 0) return now;
  // User and system time of all its threads, those that have ended too, in nanoseconds of the scheduler.
  if (clock_getcpuclockid(options.pid, &relay) != 0) die("--pid");
  now.relay_cpu = clock_ns(relay);
  return now;
}

static uint64_t *time_slot(struct half *user, uint64_t sequence) {
  size_t pair = (size_t)(user - halves) / 2;
  return &sent_at[pair * (size_t)options.window + sequence % (uint64_t)options.window];
}

void message_arrived(struct half *half, uint64_t sequence) {
  messages++;
  if (!options.pingpong) {
    if (!stopping) half->mate->allowed++;
  } else if (!half->user) {
    half->allowed++;
  } else {
    uint64_t now = clock_ns(CLOCK_MONOTONIC);
    histogram_add(&round_trips, now - *time_slot(half, sequence));
    if (stopping) return;
    *time_slot(half, half->allowed) = now;
    half->allowed++;
  }
}

static void drop(struct half *half) {
  if (half->fd < 0) return;
  close(half->fd);
  half->fd = -1;
}

/** Sends what has been released and asks for EPOLLOUT only while the socket is full. */
static void push(struct half *half) {
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

static void turn(int timeout_ms) {
  struct epoll_event events[MAX_EVENTS];
  int count = epoll_wait(poller, events, MAX_EVENTS, timeout_ms);
  if (count < 0 && errno != EINTR) die("epoll_wait");
  for (int i = 0; i < count; i++) {
    struct half *half = events[i].data.ptr;
    if (half->fd >= 0 && (events[i].events & EPOLLOUT)) unblock(half);
    if (half->fd >= 0 && (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))) pull(half);
  }
}

static void run_until(uint64_t end) {
  while (clock_ns(CLOCK_MONOTONIC) < end) turn(10);
}

static bool all_greeted(void) {
  for (int i = 0; i < 2 * options.pairs; i++) {
    if (halves[i].fd >= 0 && !halves[i].greeted) return false;
  }
  return true;
}

/** Nothing under way: everything sent has arrived, in ping-pong also every answer. */
static bool all_arrived(void) {
  for (int i = 0; i < 2 * options.pairs; i++) {
    struct half *half = &halves[i];
    if (half->fd < 0 || half->mate->fd < 0) continue;
    if (half->sent != half->allowed || half->mate->received != half->sent) return false;
  }
  return true;
}

/** Replaces every `{pair}` of a request target by the pair's number. */
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

static void connect_all(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  poller = epoll_create1(EPOLL_CLOEXEC);
  halves = calloc((size_t)options.pairs * 2, sizeof *halves);
  sent_at = calloc((size_t)options.pairs * (size_t)options.window, sizeof *sent_at);
  if (poller < 0 || halves == NULL || sent_at == NULL) die("start");
  for (int i = 0; i < 2 * options.pairs; i++) {
    char path[MAX_PATH];
    struct half *half = &halves[i];
    half->user = i % 2 == 0;
    half->mate = &halves[i ^ 1];
    expand(half->user ? options.user_path : options.device_path, i / 2, path);
    half_connect(half, &address, path);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = half};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, half->fd, &event) != 0) die("epoll_ctl");
  }
  uint64_t deadline = clock_ns(CLOCK_MONOTONIC) + 10000000000ULL;
  while (!all_greeted()) {
    if (clock_ns(CLOCK_MONOTONIC) > deadline) errno = ETIMEDOUT, die("waiting for the greeting on all halves");
    turn(10);
  }
}

static void start_sending(void) {
  uint64_t now = clock_ns(CLOCK_MONOTONIC);
  for (int i = 0; i < 2 * options.pairs; i += 2) {
    for (uint64_t j = 0; j < (uint64_t)options.window; j++) *time_slot(&halves[i], j) = now;
    halves[i].allowed = (uint64_t)options.window;
    push(&halves[i]);
  }
}

/** Prints the result; returns the number of faults. */
static uint64_t report(const struct snapshot *begin, const struct snapshot *end, uint64_t lost) {
  double seconds = (double)(end->at - begin->at) / 1e9;
  uint64_t count = end->messages - begin->messages;
  double relay = (double)(end->relay_cpu - begin->relay_cpu) / 1e9;
  printf("{\"mode\":\"%s\",\"pairs\":%d,\"inFlight\":%d,\"messageBytes\":%zu,\"seconds\":%.6f,\"messages\":%llu,\"bytes\":%llu",
         options.pingpong ? "pingpong" : "pipeline", options.pairs, options.window, options.payload_bytes, seconds,
         (unsigned long long)count, (unsigned long long)(count * options.payload_bytes));
  printf(",\"generatorCpuSeconds\":%.6f", (double)(end->own_cpu - begin->own_cpu) / 1e9);
  if (options.pid != 0) {
    printf(",\"relayCpuSeconds\":%.6f", relay);
    if (count > 0) printf(",\"relayCpuMicrosPerMessage\":%.4f", relay * 1e6 / (double)count);
  }
  if (options.pingpong) {
    printf(",\"roundTripMicros\":{\"p50\":%.1f,\"p99\":%.1f,\"max\":%.1f}", histogram_percentile(&round_trips, 0.5) / 1e3,
           histogram_percentile(&round_trips, 0.99) / 1e3, (double)round_trips.max / 1e3);
  }
  printf(",\"errors\":{\"order\":%llu,\"content\":%llu,\"protocol\":%llu,\"closed\":%llu,\"lost\":%llu}}\n",
         (unsigned long long)faults.order, (unsigned long long)faults.content, (unsigned long long)faults.protocol,
         (unsigned long long)faults.closed, (unsigned long long)lost);
  return faults.order + faults.content + faults.protocol + faults.closed + lost;
}

static uint64_t seconds_ns(double seconds) { return (uint64_t)(seconds * 1e9); }

static void usage(void) {
  fputs("usage: load --port PORT --user-path TARGET --device-path TARGET [--mode pipeline|pingpong] [--pairs N]\n"
        "            [--in-flight N] [--message-bytes N (16 or more)] [--warmup SECONDS] [--duration SECONDS] [--pid PID]\n"
        "{pair} in a target stands for the number of the pair; --pid is the relay whose CPU time is read.\n", stderr);
  exit(2);
}

static void parse(int argc, char **argv) {
  static const struct option known[] = {
      {"port", 1, 0, 'p'},      {"user-path", 1, 0, 'u'},     {"device-path", 1, 0, 'd'}, {"mode", 1, 0, 'm'},
      {"pairs", 1, 0, 'n'},     {"in-flight", 1, 0, 'w'},     {"message-bytes", 1, 0, 'b'}, {"warmup", 1, 0, 'a'},
      {"duration", 1, 0, 't'},  {"pid", 1, 0, 'r'},
      {0, 0, 0, 0}};
  for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
    if (option == 'p') options.port = atoi(optarg);
    else if (option == 'u') options.user_path = optarg;
    else if (option == 'd') options.device_path = optarg;
    else if (option == 'm' && strcmp(optarg, "pingpong") == 0) options.pingpong = true;
    else if (option == 'm' && strcmp(optarg, "pipeline") == 0) options.pingpong = false;
    else if (option == 'n') options.pairs = atoi(optarg);
    else if (option == 'w') options.window = atoi(optarg);
    else if (option == 'b') options.payload_bytes = strtoul(optarg, NULL, 10);
    else if (option == 'a') options.warmup_seconds = atof(optarg);
    else if (option == 't') options.duration_seconds = atof(optarg);
    else if (option == 'r') options.pid = atoi(optarg);
    else usage();
  }
  bool paths = options.user_path != NULL && options.device_path != NULL;
  if (!paths || optind < argc || options.port <= 0 || options.port > 65535 || options.pairs < 1 || options.window < 1 ||
      options.payload_bytes < MIN_PAYLOAD || options.warmup_seconds < 0 || !(options.duration_seconds > 0)) usage();
}

int main(int argc, char **argv) {
  parse(argc, argv);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  size_t batch = BATCH_BYTES / (options.payload_bytes + 14);
  if (batch > (size_t)options.window) batch = (size_t)options.window;
  prepare_frames(options.payload_bytes, batch > 0 ? batch : 1);
  connect_all();
  start_sending();
  run_until(clock_ns(CLOCK_MONOTONIC) + seconds_ns(options.warmup_seconds));
  memset(&round_trips, 0, sizeof round_trips);
  struct snapshot begin = snapshot();
  run_until(begin.at + seconds_ns(options.duration_seconds));
  struct snapshot end = snapshot();
  struct histogram measured = round_trips;
  // What is still under way must arrive too: a message lost near the end is lost all the same.
  stopping = true;
  uint64_t lost = 0, seen = messages, deadline = clock_ns(CLOCK_MONOTONIC) + seconds_ns(SILENCE_SECONDS);
  while (!all_arrived() && clock_ns(CLOCK_MONOTONIC) < deadline) {
    turn(10);
    if (messages != seen) deadline = clock_ns(CLOCK_MONOTONIC) + seconds_ns(SILENCE_SECONDS);
    seen = messages;
  }
  for (int i = 0; i < 2 * options.pairs; i++) {
    struct half *half = &halves[i];
    if (half->sent > half->mate->received) lost += half->sent - half->mate->received;
  }
  for (int i = 0; i < 2 * options.pairs; i++) half_close(&halves[i]);
  round_trips = measured;
  return report(&begin, &end, lost) == 0 ? 0 : 1;
}
