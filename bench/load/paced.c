// Latency at a fixed load: N pairs, on which R messages a second in total leave on an even schedule, whatever the relay
// does (open loop). A message's latency runs from the moment it was due to its receipt: where the relay makes messages
// wait, in its sockets or in its own queues, the wait of all that were due meanwhile counts, and not only of the one
// that happened to be under way (coordinated omission). The program never sleeps, it is meant to have a core of its own;
// how late it itself got round to messages is told apart. Prints one JSON object.

#define _GNU_SOURCE
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "histogram.h"
#include "pairs.h"
#include "upgrade.h"

// Most messages released between two looks at what has come: a generator that has fallen behind must go on reading.
enum { MAX_BURST = 64, FRAMES_AT_ONCE = 16 };
// A relay that does not keep the rate has this long at the end to take what was due; the rest is waived.
static const uint64_t CATCH_UP_NS = 2000000000ULL;

static struct {
  int port, pairs, pid;
  bool from_user, from_device;
  double rate, warmup_seconds, duration_seconds;
  size_t payload_bytes;
  const char *user_path, *device_path;
} options = {.pairs = 1, .from_user = true, .from_device = true, .rate = 1000, .payload_bytes = 64,
             .warmup_seconds = 1, .duration_seconds = 2};

static uint64_t start, senders, begin, end;  // begin, end: the measured messages by number
static double step;                          // nanoseconds between two messages
static uint64_t arrived;                     // messages since the start
static struct histogram latency, late;
static uint64_t found_full;  // measured messages whose socket had no room: the relay's doing, not the generator's

static uint64_t due_at(uint64_t message) { return start + (uint64_t)((double)message * step); }

/** Messages go round over the senders, so a sender's number and its sequence number give the message's. */
static struct half *sender_of(uint64_t message) {
  uint64_t sender = message % senders;
  if (options.from_user && options.from_device) return &halves[sender];
  return &halves[2 * sender + (options.from_user ? 0 : 1)];
}

static uint64_t message_of(const struct half *sender, uint64_t sequence) {
  uint64_t half = (uint64_t)(sender - halves);
  return sequence * senders + (options.from_user && options.from_device ? half : half / 2);
}

void message_arrived(struct half *half, uint64_t sequence) {
  arrived++;
  uint64_t message = message_of(half->mate, sequence);
  if (message < begin || message >= end) return;
  uint64_t now = clock_ns(CLOCK_MONOTONIC), due = due_at(message);
  // A damaged sequence number may name a message that is not due yet; it has been counted as a fault.
  if (now >= due) histogram_add(&latency, now - due);
}

/** Releases a message; where its socket is full it stays due and leaves when there is room. */
static void release(uint64_t message, uint64_t now) {
  struct half *half = sender_of(message);
  bool measured = message >= begin;
  if (measured) histogram_add(&late, now - due_at(message));
  half->allowed++;
  push(half);
  if (measured && half->sent < half->allowed) found_full++;
}

/** Releases messages `next` to `last`, each when it is due. */
static void send_until(uint64_t next, uint64_t last) {
  while (next < last) {
    for (int burst = 0; burst < MAX_BURST && next < last; burst++) {
      uint64_t now = clock_ns(CLOCK_MONOTONIC);
      if (now < due_at(next)) break;
      release(next++, now);
    }
    turn(0);
  }
}

static bool all_sent(void) {
  for (int i = 0; i < half_count; i++) {
    if (halves[i].fd >= 0 && halves[i].sent != halves[i].allowed) return false;
  }
  return true;
}

static void usage(void) {
  fputs("usage: paced --port PORT --user-path TARGET --device-path TARGET [--pairs N] [--rate MESSAGES (a second, in all)]\n"
        "             [--direction user|device|both] [--message-bytes N (16 or more)] [--warmup SECONDS]\n"
        "             [--duration SECONDS] [--pid PID[,PID]] [--device-port PORT] [--tls]\n"
        "{pair} in a target stands for the number of the pair; --direction: who sends; --pid is the relay whose CPU time is\n"
        "read, P,Q: of both; --device-port: where device halves connect to, if elsewhere.\n", stderr);
  exit(2);
}

static void parse(int argc, char **argv) {
  static const struct option known[] = {
      {"port", 1, 0, 'p'},     {"user-path", 1, 0, 'u'}, {"device-path", 1, 0, 'd'},   {"pairs", 1, 0, 'n'},
      {"rate", 1, 0, 'r'},     {"direction", 1, 0, 'f'}, {"message-bytes", 1, 0, 'b'}, {"warmup", 1, 0, 'a'},
      {"duration", 1, 0, 't'}, {"pid", 1, 0, 'i'},       {"tls", 0, 0, 'l'},
      {"device-port", 1, 0, 'D'}, {0, 0, 0, 0}};
  for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
    if (option == 'p') options.port = atoi(optarg);
    else if (option == 'u') options.user_path = optarg;
    else if (option == 'd') options.device_path = optarg;
    else if (option == 'D' && use_device_port(optarg)) continue;
    else if (option == 'n') options.pairs = atoi(optarg);
    else if (option == 'r') options.rate = atof(optarg);
    else if (option == 'f') {
      bool both = strcmp(optarg, "both") == 0;
      options.from_user = both || strcmp(optarg, "user") == 0;
      options.from_device = both || strcmp(optarg, "device") == 0;
    }
    else if (option == 'b') options.payload_bytes = strtoul(optarg, NULL, 10);
    else if (option == 'a') options.warmup_seconds = atof(optarg);
    else if (option == 't') options.duration_seconds = atof(optarg);
    else if (option == 'i' && (options.pid = relay_pids(optarg)) > 0) continue;
    else if (option == 'l') use_tls();
    else usage();
  }
  bool paths = options.user_path != NULL && options.device_path != NULL;
  if (!paths || optind < argc || options.port <= 0 || options.port > 65535 || options.pairs < 1 || !(options.rate > 0) ||
      !(options.from_user || options.from_device) || options.payload_bytes < MIN_PAYLOAD || options.warmup_seconds < 0 ||
      !(options.duration_seconds * options.rate >= 1)) usage();
}

int main(int argc, char **argv) {
  parse(argc, argv);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  prepare_frames(options.payload_bytes, FRAMES_AT_ONCE);
  connect_pairs(options.pairs, options.port, options.user_path, options.device_path);
  senders = (uint64_t)(options.from_user && options.from_device ? half_count : options.pairs);
  step = 1e9 / options.rate;
  begin = (uint64_t)(options.warmup_seconds * options.rate);
  end = begin + (uint64_t)(options.duration_seconds * options.rate);
  start = clock_ns(CLOCK_MONOTONIC);

  send_until(0, begin);
  uint64_t began = clock_ns(CLOCK_MONOTONIC), before = arrived;
  uint64_t relay_cpu = relay_cpu_ns(), own_cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
  send_until(begin, end);
  uint64_t ended = clock_ns(CLOCK_MONOTONIC), in_time = arrived - before;
  relay_cpu = relay_cpu_ns() - relay_cpu;
  own_cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - own_cpu;

  while (!all_sent() && clock_ns(CLOCK_MONOTONIC) < ended + CATCH_UP_NS) turn(1);
  uint64_t waived = waive_unsent(0), lost = settle();
  for (int i = 0; i < half_count; i++) half_close(&halves[i]);

  double seconds = (double)(ended - began) / 1e9, reached = (double)in_time / seconds;
  // What was under way when the interval began arrives in it, and what is at its end does not: no more than one message
  // in a hundred may be missing, and of few messages as many as there are senders.
  bool behind = waived > 0 || (double)in_time + (double)senders < 0.99 * options.rate * seconds;
  printf("{\"pairs\":%d,\"messageBytes\":%zu,\"rate\":%.1f,\"seconds\":%.6f,\"messages\":%llu", options.pairs,
         options.payload_bytes, options.rate, seconds, (unsigned long long)latency.total);
  printf(",\"rateReached\":%.1f,\"behind\":%s,\"waived\":%llu,\"foundFull\":%llu", reached, behind ? "true" : "false",
         (unsigned long long)waived, (unsigned long long)found_full);
  printf(",\"generatorCpuSeconds\":%.6f", (double)own_cpu / 1e9);
  if (options.pid != 0) {
    printf(",\"relayCpuSeconds\":%.6f", (double)relay_cpu / 1e9);
    if (in_time > 0) printf(",\"relayCpuMicrosPerMessage\":%.4f", (double)relay_cpu / 1e3 / (double)in_time);
  }
  printf(",\"latencyMicros\":");
  histogram_print_micros(&latency);
  printf(",\"sentLateMicros\":");
  histogram_print_micros(&late);
  printf(",\"latencyNanos\":");
  histogram_print(&latency);
  putchar(',');
  uint64_t wrong = print_errors(lost);
  puts("}");
  return wrong == 0 ? 0 : 1;
}
