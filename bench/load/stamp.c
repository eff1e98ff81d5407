// Time stamps: N pairs, on each of which the user half sends R messages a second to the device half, spread evenly over
// time and whatever the relay does (open loop). Every message carries the wall clock as it was right before the send
// system call, so a recording of it tells how far the recorded time is from the moment of sending. Some of the pairs
// are probes: of their messages it is also told when the mate had them. Prints one JSON object.

#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "histogram.h"
#include "pairs.h"

// Most messages sent between two looks at what has come: a generator that has fallen behind must go on reading.
enum { STAMPED_PAYLOAD = 24, MAX_BURST = 64, ANCHOR_TRIES = 3 };

static struct {
  int port, pairs, probes, count, pid;
  double rate;
  size_t payload_bytes;
  const char *user_path, *device_path;
} options = {.pairs = 1, .probes = 1, .count = 1, .rate = 10, .payload_bytes = 64};

static uint64_t messages;
static uint64_t *sent_at, *transit;  // of the probes' messages, `count` each: wall clock; how long until the mate had it
static struct histogram late;        // how far behind the even spread messages left

/** The probe's number, or -1. Probes are spread over the pairs, and with it over time. */
static int probe_of(int pair) {
  int step = options.pairs / options.probes;
  return pair % step == 0 && pair / step < options.probes ? pair / step : -1;
}

static size_t slot(int probe, uint64_t sequence) { return (size_t)probe * (size_t)options.count + sequence; }

void message_arrived(struct half *half, uint64_t sequence) {
  messages++;
  int probe = probe_of((int)(half - halves) / 2);
  if (probe < 0 || sequence >= (uint64_t)options.count) return;
  transit[slot(probe, sequence)] = clock_ns(CLOCK_REALTIME) - sent_at[slot(probe, sequence)];
}

static void send_next(int pair) {
  struct half *half = &halves[2 * pair];
  if (half->fd < 0) return;
  if (half->control_length > 0) push(half);
  uint64_t sequence = half->sent;
  uint64_t now = half->control_length == 0 ? half_send_stamped(half) : 0;
  if (now == 0) errno = EAGAIN, die("a socket is full or broken: the relay does not read");
  int probe = probe_of(pair);
  if (probe >= 0) sent_at[slot(probe, sequence)] = now;
}

/** All pairs in turn, one message each `1 / (rate × pairs)` seconds. */
static void send_all(void) {
  const uint64_t total = (uint64_t)options.count * (uint64_t)options.pairs, start = clock_ns(CLOCK_MONOTONIC);
  const double step = 1e9 / (options.rate * options.pairs);
  for (uint64_t next = 0; next < total;) {
    uint64_t now = clock_ns(CLOCK_MONOTONIC), due = start + (uint64_t)((double)next * step);
    for (int burst = 0; burst < MAX_BURST && next < total && due <= now; burst++) {
      histogram_add(&late, now - due);
      send_next((int)(next++ % (uint64_t)options.pairs));
      due = start + (uint64_t)((double)next * step);
      now = clock_ns(CLOCK_MONOTONIC);
    }
    uint64_t wait = due > now ? due - now : 0;
    struct timespec timeout = {.tv_sec = (time_t)(wait / 1000000000ULL), .tv_nsec = (long)(wait % 1000000000ULL)};
    struct pollfd sockets = {.fd = poller, .events = POLLIN};
    if (ppoll(&sockets, 1, &timeout, NULL) < 0 && errno != EINTR) die("ppoll");
    if (sockets.revents != 0) turn(0);
  }
}

/** What is between wall clock and monotonic clock; of a few tries the tightest counts. */
static int64_t wall_offset(void) {
  uint64_t tightest = UINT64_MAX;
  int64_t offset = 0;
  for (int i = 0; i < ANCHOR_TRIES; i++) {
    uint64_t before = clock_ns(CLOCK_MONOTONIC), wall = clock_ns(CLOCK_REALTIME), after = clock_ns(CLOCK_MONOTONIC);
    if (after - before >= tightest) continue;
    tightest = after - before;
    offset = (int64_t)(wall - before - tightest / 2);
  }
  return offset;
}

/** Prints the result; returns the number of faults. */
static uint64_t report(double seconds, uint64_t own_cpu, uint64_t relay_cpu, int64_t stepped, uint64_t lost) {
  printf("{\"pairs\":%d,\"seconds\":%.6f,\"messages\":%llu,\"wallStepNanos\":%lld", options.pairs, seconds,
         (unsigned long long)messages, (long long)stepped);
  printf(",\"generatorCpuSeconds\":%.6f,\"relayCpuSeconds\":%.6f", (double)own_cpu / 1e9, (double)relay_cpu / 1e9);
  printf(",\"lateMicros\":{\"p50\":%.1f,\"p99\":%.1f,\"max\":%.1f}", histogram_percentile(&late, 0.5) / 1e3,
         histogram_percentile(&late, 0.99) / 1e3, (double)late.max / 1e3);
  printf(",\"transitNanos\":{");
  for (int pair = 0; pair < options.pairs; pair++) {
    int probe = probe_of(pair);
    if (probe < 0) continue;
    printf("%s\"%d\":[", probe == 0 ? "" : ",", pair);
    for (int i = 0; i < options.count; i++) {
      printf("%s%llu", i == 0 ? "" : ",", (unsigned long long)transit[slot(probe, (uint64_t)i)]);
    }
    printf("]");
  }
  printf("},\"errors\":{\"order\":%llu,\"content\":%llu,\"protocol\":%llu,\"closed\":%llu,\"lost\":%llu}}\n",
         (unsigned long long)faults.order, (unsigned long long)faults.content, (unsigned long long)faults.protocol,
         (unsigned long long)faults.closed, (unsigned long long)lost);
  return faults.order + faults.content + faults.protocol + faults.closed + lost;
}

static void usage(void) {
  fputs("usage: stamp --port PORT --user-path TARGET --device-path TARGET [--pairs N] [--probes N (at most the pairs)]\n"
        "             [--rate MESSAGES (a second and pair)] [--count MESSAGES (per pair)]\n"
        "             [--message-bytes N (24 or more)] [--pid PID] [--tls]\n"
        "{pair} in a target stands for the number of the pair; --pid is the relay whose CPU time is read, of several\n"
        "processes (P,Q) their sum.\n", stderr);
  exit(2);
}

static void parse(int argc, char **argv) {
  static const struct option known[] = {
      {"port", 1, 0, 'p'},   {"user-path", 1, 0, 'u'}, {"device-path", 1, 0, 'd'},   {"pairs", 1, 0, 'n'},
      {"probes", 1, 0, 's'}, {"rate", 1, 0, 'r'},      {"message-bytes", 1, 0, 'b'}, {"count", 1, 0, 'c'},
      {"pid", 1, 0, 'i'},    {"tls", 0, 0, 't'},       {0, 0, 0, 0}};
  for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
    if (option == 'p') options.port = atoi(optarg);
    else if (option == 'u') options.user_path = optarg;
    else if (option == 'd') options.device_path = optarg;
    else if (option == 'n') options.pairs = atoi(optarg);
    else if (option == 's') options.probes = atoi(optarg);
    else if (option == 'r') options.rate = atof(optarg);
    else if (option == 'b') options.payload_bytes = strtoul(optarg, NULL, 10);
    else if (option == 'c') options.count = atoi(optarg);
    else if (option == 't') use_tls();
    else if (option == 'i' && (options.pid = relay_pids(optarg)) > 0) continue;
    else usage();
  }
  bool paths = options.user_path != NULL && options.device_path != NULL;
  if (!paths || optind < argc || options.port <= 0 || options.port > 65535 || options.probes < 1 ||
      options.pairs < options.probes || options.count < 1 || !(options.rate > 0) ||
      options.payload_bytes < STAMPED_PAYLOAD) usage();
}

int main(int argc, char **argv) {
  parse(argc, argv);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  prctl(PR_SET_TIMERSLACK, 1);
  struct rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) die("getrlimit");
  files.rlim_cur = files.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &files) != 0) die("setrlimit");
  size_t slots = (size_t)options.probes * (size_t)options.count;
  sent_at = calloc(slots, sizeof *sent_at);
  transit = calloc(slots, sizeof *transit);
  if (sent_at == NULL || transit == NULL) die("start");
  prepare_frames(options.payload_bytes, 1);
  int64_t offset = wall_offset();
  connect_pairs(options.pairs, options.port, options.user_path, options.device_path);
  uint64_t begin = clock_ns(CLOCK_MONOTONIC), relay_cpu = relay_cpu_ns();
  uint64_t own_cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
  send_all();
  double seconds = (double)(clock_ns(CLOCK_MONOTONIC) - begin) / 1e9;
  relay_cpu = relay_cpu_ns() - relay_cpu;
  own_cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - own_cpu;
  uint64_t lost = settle();
  int64_t stepped = wall_offset() - offset;
  for (int i = 0; i < half_count; i++) half_close(&halves[i]);
  return report(seconds, own_cpu, relay_cpu, stepped, lost) == 0 ? 0 : 1;
}
