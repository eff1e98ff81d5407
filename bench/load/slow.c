// Slow readers: S pairs whose device halves read at R bytes a second, or not at all, while their user halves send as much
// as the relay takes; beside them P healthy ping-pong pairs, whose round trips are timed, first alone and then beside
// them. Tells what the relay's memory and CPU come to and how much it took from the senders. At the end all is read
// fast: nothing may be lost or reordered for having waited. Prints one JSON object.

#define _GNU_SOURCE
#include <getopt.h>
#include <linux/sockios.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

#include "histogram.h"
#include "pairs.h"

enum {
  // A reader that has been granted less reads nothing yet.
  SIP_BYTES = 4096,
  // So much of a slow pair's sending in one turn, about 10 µs of work: healthy pairs wait for the relay, not for that.
  SLOW_TURN_BYTES = 16 * 1024,
};

static struct {
  int port, pairs, slow_pairs, pid;
  double read_rate, warmup_seconds, duration_seconds;
  size_t payload_bytes, slow_payload_bytes;
  uint64_t max_bytes;
  const char *user_path, *device_path;
} options = {.pairs = 10, .slow_pairs = 1, .payload_bytes = 64, .slow_payload_bytes = 16384,
             .max_bytes = 1ULL << 30, .warmup_seconds = 1, .duration_seconds = 2};

static uint64_t messages, slow_messages;  // delivered
static uint64_t *sent_at;                 // by the pair: when its ping-pong message was released
static bool stopping;
static struct histogram round_trips;

/** What is known at one moment; the difference of two is an interval. */
struct snapshot {
  uint64_t at, messages, slow_messages, own_cpu, relay_cpu;
};

static struct snapshot snapshot(void) {
  return (struct snapshot){.at = clock_ns(CLOCK_MONOTONIC),
                           .messages = messages,
                           .slow_messages = slow_messages,
                           .own_cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID),
                           .relay_cpu = relay_cpu_ns()};
}

void message_arrived(struct half *half, uint64_t sequence) {
  (void)sequence;
  if (half >= halves + 2 * options.pairs) {  // the slow pairs come last
    slow_messages++;
    return;
  }
  messages++;
  if (!half->user) {
    half->allowed++;
    return;
  }
  uint64_t now = clock_ns(CLOCK_MONOTONIC), *released = &sent_at[(half - halves) / 2];
  histogram_add(&round_trips, now - *released);
  if (stopping) return;
  *released = now;
  half->allowed++;
}

/** Resident memory of the relay, bytes; 0 without its pid. */
static uint64_t relay_memory(void) {
  if (options.pid == 0) return 0;
  char path[64], line[256];
  unsigned long long kib = 0;
  snprintf(path, sizeof path, "/proc/%d/smaps_rollup", options.pid);
  FILE *file = fopen(path, "r");
  if (file == NULL) die(path);
  while (fgets(line, sizeof line, file) != NULL && sscanf(line, "Rss: %llu kB", &kib) != 1) continue;
  fclose(file);
  return kib * 1024;
}

static void start_healthy(void) {
  sent_at = calloc((size_t)options.pairs + 1, sizeof *sent_at);
  if (sent_at == NULL) die("start");
  for (int i = 0; i < 2 * options.pairs; i += 2) {
    sent_at[i / 2] = clock_ns(CLOCK_MONOTONIC);
    halves[i].allowed = 1;
    push(&halves[i]);
  }
}

/** Gives the slow pairs frames of their own, and has turn() leave their device halves alone. */
static void make_slow(uint64_t count) {
  struct frames *frames = prepare_frames(options.slow_payload_bytes, SLOW_TURN_BYTES / options.slow_payload_bytes + 1);
  for (int i = 2 * options.pairs; i < half_count; i++) {
    halves[i].frames = frames;
    halves[i].turn_bytes = SLOW_TURN_BYTES;
    if (!halves[i].user) mute(&halves[i], true);
  }
  for (int i = 2 * options.pairs; i < half_count; i += 2) {
    halves[i].allowed = count;
    push(&halves[i]);
  }
}

static void run_until(uint64_t end, uint64_t slow_since) {
  double taken = 0;
  for (uint64_t now; (now = clock_ns(CLOCK_MONOTONIC)) < end;) {
    turn(1);
    double granted = slow_since == 0 ? 0 : options.read_rate * (double)(now - slow_since) / 1e9;
    if (granted - taken < SIP_BYTES) continue;
    for (int i = 2 * options.pairs + 1; i < half_count; i += 2) pull(&halves[i], (size_t)(granted - taken));
    taken = granted;
  }
}

/** Bytes of a half's frames that the relay's side has acknowledged: in its receive buffer, its memory, or further. */
static uint64_t accepted_bytes(const struct half *half) {
  int unacknowledged = 0;
  if (half->fd < 0) return 0;
  if (ioctl(half->fd, SIOCOUTQ, &unacknowledged) != 0) die("SIOCOUTQ");
  uint64_t sent = half_sent_bytes(half);
  return sent > (uint64_t)unacknowledged ? sent - (uint64_t)unacknowledged : 0;
}

static void print_accepted(void) {
  uint64_t low = UINT64_MAX, high = 0, sum = 0;
  for (int i = 2 * options.pairs; i < half_count; i += 2) {
    uint64_t bytes = accepted_bytes(&halves[i]);
    sum += bytes;
    if (bytes < low) low = bytes;
    if (bytes > high) high = bytes;
  }
  printf(",\"acceptedBytesPerSlowPair\":{\"min\":%llu,\"mean\":%llu,\"max\":%llu}", (unsigned long long)low,
         (unsigned long long)(sum / (uint64_t)options.slow_pairs), (unsigned long long)high);
}

static void usage(void) {
  fputs("usage: slow --port PORT --user-path TARGET --device-path TARGET [--pairs N (healthy ones)] [--slow-pairs N]\n"
        "            [--read-rate BYTES (a second and slow pair; 0: nothing is read)] [--message-bytes N (16 or more)]\n"
        "            [--slow-message-bytes N (16 or more)] [--max-bytes N (of all slow pairs)] [--warmup SECONDS]\n"
        "            [--duration SECONDS] [--pid PID] [--tls]\n"
        "{pair} in a target stands for the number of the pair; --warmup: as long the healthy pairs have the relay to\n"
        "themselves, their round trips are timed in its second half; --pid is the relay whose CPU and memory are read.\n", stderr);
  exit(2);
}

static void parse(int argc, char **argv) {
  static const struct option known[] = {
      {"port", 1, 0, 'p'},      {"user-path", 1, 0, 'u'},     {"device-path", 1, 0, 'd'},        {"pairs", 1, 0, 'n'},
      {"slow-pairs", 1, 0, 's'}, {"read-rate", 1, 0, 'r'},    {"message-bytes", 1, 0, 'b'},      {"max-bytes", 1, 0, 'x'},
      {"warmup", 1, 0, 'a'},    {"duration", 1, 0, 't'},      {"slow-message-bytes", 1, 0, 'B'}, {"pid", 1, 0, 'i'},
      {"tls", 0, 0, 'l'},       {0, 0, 0, 0}};
  for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
    if (option == 'p') options.port = atoi(optarg);
    else if (option == 'u') options.user_path = optarg;
    else if (option == 'd') options.device_path = optarg;
    else if (option == 'n') options.pairs = atoi(optarg);
    else if (option == 's') options.slow_pairs = atoi(optarg);
    else if (option == 'r') options.read_rate = atof(optarg);
    else if (option == 'b') options.payload_bytes = strtoul(optarg, NULL, 10);
    else if (option == 'B') options.slow_payload_bytes = strtoul(optarg, NULL, 10);
    else if (option == 'x') options.max_bytes = strtoull(optarg, NULL, 10);
    else if (option == 'a') options.warmup_seconds = atof(optarg);
    else if (option == 't') options.duration_seconds = atof(optarg);
    else if (option == 'i' && strchr(optarg, ',') == NULL && (options.pid = relay_pids(optarg)) > 0) continue;
    else if (option == 'l') use_tls();
    else usage();
  }
  bool paths = options.user_path != NULL && options.device_path != NULL;
  if (!paths || optind < argc || options.port <= 0 || options.port > 65535 || options.pairs < 0 || options.slow_pairs < 1 ||
      !(options.read_rate >= 0) || options.payload_bytes < MIN_PAYLOAD || options.slow_payload_bytes < MIN_PAYLOAD ||
      options.max_bytes < options.slow_payload_bytes * (uint64_t)options.slow_pairs || options.warmup_seconds < 0 ||
      !(options.duration_seconds > 0)) usage();
}

static void print_trips(const char *name, const struct histogram *histogram) {
  if (histogram->total == 0) return;
  printf(",\"%s\":", name);
  histogram_print_micros(histogram);
}

int main(int argc, char **argv) {
  parse(argc, argv);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  prepare_frames(options.payload_bytes, 1);
  connect_pairs(options.pairs + options.slow_pairs, options.port, options.user_path, options.device_path);
  start_healthy();
  uint64_t start = clock_ns(CLOCK_MONOTONIC), warmup = (uint64_t)(options.warmup_seconds * 1e9);
  run_until(start + warmup / 2, 0);
  memset(&round_trips, 0, sizeof round_trips);
  run_until(start + warmup, 0);
  static struct histogram alone, beside;
  alone = round_trips;

  uint64_t memory_before = relay_memory();
  struct snapshot begin = snapshot();
  // Only now, so that a ping-pong message that waited for the look at the memory is not taken for a slow one.
  memset(&round_trips, 0, sizeof round_trips);
  for (int i = 0; i < options.pairs; i++) sent_at[i] = clock_ns(CLOCK_MONOTONIC);
  make_slow(options.max_bytes / options.slow_payload_bytes / (uint64_t)options.slow_pairs);
  run_until(begin.at + (uint64_t)(options.duration_seconds * 1e9), begin.at);
  struct snapshot end = snapshot();
  beside = round_trips;
  uint64_t memory_after = relay_memory();

  double seconds = (double)(end.at - begin.at) / 1e9;
  uint64_t relay_cpu = end.relay_cpu - begin.relay_cpu;
  printf("{\"pairs\":%d,\"messageBytes\":%zu,\"slowPairs\":%d,\"slowMessageBytes\":%zu,\"readRate\":%.0f", options.pairs,
         options.payload_bytes, options.slow_pairs, options.slow_payload_bytes, options.read_rate);
  printf(",\"seconds\":%.6f,\"messages\":%llu,\"slowMessages\":%llu", seconds,
         (unsigned long long)(end.messages - begin.messages), (unsigned long long)(end.slow_messages - begin.slow_messages));
  print_accepted();

  // Everything that left a sender is owed, however long its reader slept.
  stopping = true;
  waive_unsent(2 * options.pairs);
  uint64_t drain = clock_ns(CLOCK_MONOTONIC);
  for (int i = 2 * options.pairs; i < half_count; i++) {
    halves[i].turn_bytes = 0;
    if (halves[i].muted) mute(&halves[i], false);
  }
  uint64_t lost = settle();
  drain = clock_ns(CLOCK_MONOTONIC) - drain;
  for (int i = 0; i < half_count; i++) half_close(&halves[i]);

  printf(",\"allSlowMessages\":%llu,\"drainSeconds\":%.6f,\"generatorCpuSeconds\":%.6f", (unsigned long long)slow_messages,
         (double)drain / 1e9, (double)(end.own_cpu - begin.own_cpu) / 1e9);
  if (options.pid != 0) {
    printf(",\"relayCpuSeconds\":%.6f,\"relayCpuPercent\":%.2f", (double)relay_cpu / 1e9,
           (double)relay_cpu / 1e7 / seconds);
    printf(",\"relayResidentBytes\":{\"before\":%llu,\"after\":%llu}", (unsigned long long)memory_before,
           (unsigned long long)memory_after);
  }
  print_trips("aloneRoundTripMicros", &alone);
  print_trips("roundTripMicros", &beside);
  putchar(',');
  uint64_t wrong = print_errors(lost);
  puts("}");
  return wrong == 0 ? 0 : 1;
}
