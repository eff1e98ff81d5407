// Load generator: N pairs of halves through one relay, from one thread. Both halves of a pair live here, so the
// receiver's count releases the sender directly and no message is spent on acknowledgements.
//   pipeline   the user half keeps W messages in flight to the device half
//   pingpong   the user half keeps W messages in flight, the device half sends one back for each; round trips are timed
// Beside ping-pong pairs there may be blasters: pairs that pipeline at full speed, and are not timed.
// Prints one JSON object: what went through in the measured interval and what CPU time the relay used for it.

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

enum {
  BATCH_BYTES = 512 * 1024,
  // What is under way on a blasting pair where nothing else is asked: four times what the relays read at once, so that
  // there is always another full read of it waiting.
  BLASTER_BYTES = 2 * 1024 * 1024,
  // How much of a blaster the generator reads and sends in one turn where nothing else is asked. All of it would have
  // the others wait for the generator and not the relay; too little leaves the relay idle: with 16 KiB a blaster came
  // to 0.07 to 0.15 GB/s beside 50 ping-pong pairs, with 256 KiB to 1 to 2, which keeps the relay at its limit, and
  // with 1 MiB to no more.
  BLASTER_TURN_BYTES = 256 * 1024,
};

static struct {
  bool pingpong;
  int port, pairs, window, pid;
  size_t payload_bytes;
  uint64_t max_bytes;  // 0: no limit
  double warmup_seconds, duration_seconds;
  const char *user_path, *device_path;
  int blasters, blaster_window;  // window 0: BLASTER_BYTES of them
  size_t blaster_payload_bytes, blaster_turn_bytes;
} options = {.pairs = 1, .window = 1, .payload_bytes = 64, .warmup_seconds = 1, .duration_seconds = 2,
             .blaster_payload_bytes = 65536, .blaster_turn_bytes = BLASTER_TURN_BYTES};

/** What is known at one moment; the difference of two is the measured interval. */
struct snapshot {
  uint64_t at, messages, blaster_messages, own_cpu, relay_cpu;  // nanoseconds, counts
};

static uint64_t messages, blaster_messages;
static bool stopping;
static uint64_t *sent_at;  // ping-pong: when each message in flight was released, `window` entries per pair
static struct histogram round_trips;

static struct snapshot snapshot(void) {
  return (struct snapshot){.at = clock_ns(CLOCK_MONOTONIC),
                           .messages = messages,
                           .blaster_messages = blaster_messages,
                           .own_cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID),
                           .relay_cpu = relay_cpu_ns()};
}

static uint64_t *time_slot(struct half *user, uint64_t sequence) {
  size_t pair = (size_t)(user - halves) / 2;
  return &sent_at[pair * (size_t)options.window + sequence % (uint64_t)options.window];
}

void message_arrived(struct half *half, uint64_t sequence) {
  if (half >= halves + 2 * options.pairs) {  // the blasters' pairs come last
    blaster_messages++;
    if (!stopping) half->mate->allowed++;
    return;
  }
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

/** Until `end`, or until `max_bytes` of payload have arrived since the start. */
static void run_until(uint64_t end, uint64_t max_bytes) {
  while (messages * options.payload_bytes + blaster_messages * options.blaster_payload_bytes < max_bytes &&
         clock_ns(CLOCK_MONOTONIC) < end) turn(10);
}

/** Makes the last pairs blasters. */
static void make_blasters(void) {
  if (options.blasters == 0) return;
  size_t window = (size_t)options.blaster_window, most = options.blaster_turn_bytes / (options.blaster_payload_bytes + 14) + 1;
  struct frames *frames = prepare_frames(options.blaster_payload_bytes, most < window ? most : window);
  for (int i = 2 * options.pairs; i < half_count; i++) {
    halves[i].frames = frames;
    halves[i].turn_bytes = options.blaster_turn_bytes;
  }
}

static void start_sending(void) {
  uint64_t now = clock_ns(CLOCK_MONOTONIC);
  sent_at = calloc((size_t)options.pairs * (size_t)options.window, sizeof *sent_at);
  if (sent_at == NULL) die("start");
  for (int i = 0; i < 2 * options.pairs; i += 2) {
    for (uint64_t j = 0; j < (uint64_t)options.window; j++) *time_slot(&halves[i], j) = now;
    halves[i].allowed = (uint64_t)options.window;
    push(&halves[i]);
  }
  for (int i = 2 * options.pairs; i < half_count; i += 2) {
    halves[i].allowed = (uint64_t)options.blaster_window;
    push(&halves[i]);
  }
}

/** Prints the result; returns the number of faults. */
static uint64_t report(const struct snapshot *begin, const struct snapshot *end, uint64_t lost) {
  double seconds = (double)(end->at - begin->at) / 1e9;
  uint64_t count = end->messages - begin->messages, blasted = end->blaster_messages - begin->blaster_messages;
  double relay = (double)(end->relay_cpu - begin->relay_cpu) / 1e9;
  printf("{\"mode\":\"%s\",\"pairs\":%d,\"inFlight\":%d,\"messageBytes\":%zu,\"seconds\":%.6f,\"messages\":%llu,\"bytes\":%llu",
         options.pingpong ? "pingpong" : "pipeline", options.pairs, options.window, options.payload_bytes, seconds,
         (unsigned long long)count, (unsigned long long)(count * options.payload_bytes));
  printf(",\"allMessages\":%llu", (unsigned long long)messages);
  printf(",\"generatorCpuSeconds\":%.6f", (double)(end->own_cpu - begin->own_cpu) / 1e9);
  if (options.pid != 0) {
    printf(",\"relayCpuSeconds\":%.6f", relay);
    if (count + blasted > 0) printf(",\"relayCpuMicrosPerMessage\":%.4f", relay * 1e6 / (double)(count + blasted));
  }
  if (options.pingpong) {
    printf(",\"roundTripMicros\":");
    histogram_print_micros(&round_trips);
  }
  if (options.blasters > 0) {
    printf(",\"blasters\":{\"pairs\":%d,\"inFlight\":%d,\"messageBytes\":%zu,\"messages\":%llu,\"bytes\":%llu}",
           options.blasters, options.blaster_window, options.blaster_payload_bytes, (unsigned long long)blasted,
           (unsigned long long)(blasted * options.blaster_payload_bytes));
  }
  putchar(',');
  uint64_t wrong = print_errors(lost);
  puts("}");
  return wrong;
}

static uint64_t seconds_ns(double seconds) { return (uint64_t)(seconds * 1e9); }

static void usage(void) {
  fputs("usage: load --port PORT --user-path TARGET --device-path TARGET [--mode pipeline|pingpong] [--pairs N]\n"
        "            [--in-flight N] [--message-bytes N (16 or more)] [--warmup SECONDS] [--duration SECONDS] [--pid PID[,PID]]\n"
        "            [--max-bytes N] [--blasters N] [--blaster-bytes N] [--blaster-in-flight N]\n"
        "            [--blaster-turn-bytes N] [--device-port PORT] [--tls]\n"
        "{pair} in a target stands for the number of the pair; --pid is the relay whose CPU time is read; --max-bytes ends\n"
        "the interval early where that much payload has arrived since the start, the warm-up after a quarter of it.\n"
        "--blasters: besides the ping-pong pairs so many that pipeline at full speed; their numbers follow;\n"
        "--blaster-turn-bytes: the most that the generator reads and sends of one of them before it turns to the others;\n"
        "--device-port: where device halves connect to, if elsewhere; --pid P,Q: the CPU time of both.\n", stderr);
  exit(2);
}

static void parse(int argc, char **argv) {
  static const struct option known[] = {
      {"port", 1, 0, 'p'},      {"user-path", 1, 0, 'u'},     {"device-path", 1, 0, 'd'}, {"mode", 1, 0, 'm'},
      {"pairs", 1, 0, 'n'},     {"in-flight", 1, 0, 'w'},     {"message-bytes", 1, 0, 'b'}, {"warmup", 1, 0, 'a'},
      {"duration", 1, 0, 't'},  {"pid", 1, 0, 'r'},         {"max-bytes", 1, 0, 'x'},
      {"blasters", 1, 0, 'B'},  {"blaster-bytes", 1, 0, 'S'}, {"blaster-in-flight", 1, 0, 'W'},
      {"blaster-turn-bytes", 1, 0, 'T'}, {"tls", 0, 0, 's'}, {"device-port", 1, 0, 'D'}, {0, 0, 0, 0}};
  for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
    if (option == 'p') options.port = atoi(optarg);
    else if (option == 'u') options.user_path = optarg;
    else if (option == 'd') options.device_path = optarg;
    else if (option == 'D' && use_device_port(optarg)) continue;
    else if (option == 'm' && strcmp(optarg, "pingpong") == 0) options.pingpong = true;
    else if (option == 'm' && strcmp(optarg, "pipeline") == 0) options.pingpong = false;
    else if (option == 'n') options.pairs = atoi(optarg);
    else if (option == 'w') options.window = atoi(optarg);
    else if (option == 'b') options.payload_bytes = strtoul(optarg, NULL, 10);
    else if (option == 'a') options.warmup_seconds = atof(optarg);
    else if (option == 't') options.duration_seconds = atof(optarg);
    else if (option == 'r' && (options.pid = relay_pids(optarg)) > 0) continue;
    else if (option == 's') use_tls();
    else if (option == 'x') options.max_bytes = strtoull(optarg, NULL, 10);
    else if (option == 'B') options.blasters = atoi(optarg);
    else if (option == 'S') options.blaster_payload_bytes = strtoul(optarg, NULL, 10);
    else if (option == 'T') options.blaster_turn_bytes = strtoul(optarg, NULL, 10);
    else if (option == 'W') options.blaster_window = atoi(optarg);
    else usage();
  }
  if (options.blaster_window == 0 && options.blaster_payload_bytes > 0) {
    options.blaster_window = (int)(BLASTER_BYTES / options.blaster_payload_bytes) + 1;
  }
  bool paths = options.user_path != NULL && options.device_path != NULL;
  if (!paths || optind < argc || options.port <= 0 || options.port > 65535 || options.pairs < 1 || options.window < 1 ||
      options.payload_bytes < MIN_PAYLOAD || options.warmup_seconds < 0 || !(options.duration_seconds > 0) ||
      options.blasters < 0 || options.blaster_turn_bytes < 1 || options.blaster_window < 1 || options.blaster_payload_bytes < MIN_PAYLOAD ||
      (options.blasters > 0 && !options.pingpong)) usage();
}

int main(int argc, char **argv) {
  parse(argc, argv);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  size_t batch = BATCH_BYTES / (options.payload_bytes + 14);
  if (batch > (size_t)options.window) batch = (size_t)options.window;
  prepare_frames(options.payload_bytes, batch > 0 ? batch : 1);
  connect_pairs(options.pairs + options.blasters, options.port, options.user_path, options.device_path);
  make_blasters();
  uint64_t max_bytes = options.max_bytes == 0 ? UINT64_MAX : options.max_bytes;
  start_sending();
  run_until(clock_ns(CLOCK_MONOTONIC) + seconds_ns(options.warmup_seconds), max_bytes / 4);
  memset(&round_trips, 0, sizeof round_trips);
  struct snapshot begin = snapshot();
  run_until(begin.at + seconds_ns(options.duration_seconds), max_bytes);
  struct snapshot end = snapshot();
  struct histogram measured = round_trips;
  // What is still under way must arrive too: a message lost near the end is lost all the same.
  stopping = true;
  uint64_t lost = settle();
  for (int i = 0; i < half_count; i++) half_close(&halves[i]);
  round_trips = measured;
  return report(&begin, &end, lost) == 0 ? 0 : 1;
}
