// Idle halves: connects N pairs that say nothing and answer what the relay asks, first a few ("base"), then the rest.
// What the relay's memory grew by from the one to the other is what a half costs, free of what a relay weighs by itself.
// Then the relay's CPU at rest is measured, and at last whether all halves are still there and carry messages. Prints
// one JSON object.

#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>

#include "pairs.h"

enum { PROBED_PAIRS = 16, MAX_SOURCES = 60000 };

static struct {
  int pairs, base_pairs, pid;
  double settle_seconds, duration_seconds;
  struct target target;
} options = {.pairs = 7500, .base_pairs = 500, .settle_seconds = 5, .duration_seconds = 10,
             .target = {.sources = 16, .concurrency = 64}};

/** A process's memory as the kernel counts it, in bytes. */
struct memory {
  uint64_t rss, pss, private, anonymous;
};

static uint64_t messages;

void message_arrived(struct half *half, uint64_t sequence) {
  (void)half, (void)sequence;
  messages++;
}

static struct memory read_memory(void) {
  char path[64], line[256];
  struct memory memory = {0};
  snprintf(path, sizeof path, "/proc/%d/smaps_rollup", options.pid);
  FILE *file = fopen(path, "re");
  if (file == NULL) die(path);
  for (unsigned long long kib; fgets(line, sizeof line, file) != NULL;) {
    if (sscanf(line, "Rss: %llu kB", &kib) == 1) memory.rss = kib * 1024;
    else if (sscanf(line, "Pss: %llu kB", &kib) == 1) memory.pss = kib * 1024;
    else if (sscanf(line, "Anonymous: %llu kB", &kib) == 1) memory.anonymous = kib * 1024;
    else if (sscanf(line, "Private_Clean: %llu kB", &kib) == 1) memory.private += kib * 1024;
    else if (sscanf(line, "Private_Dirty: %llu kB", &kib) == 1) memory.private += kib * 1024;
  }
  fclose(file);
  if (memory.rss == 0) errno = ENODATA, die(path);
  return memory;
}

static void rest(double seconds) {
  uint64_t end = clock_ns(CLOCK_MONOTONIC) + (uint64_t)(seconds * 1e9);
  for (uint64_t now; (now = clock_ns(CLOCK_MONOTONIC)) < end;) turn((int)((end - now) / 1000000) + 1);
}

/** One message each way through some pairs; returns how many did not arrive. */
static uint64_t probe(void) {
  for (int i = 0; i < PROBED_PAIRS; i++) {
    uint32_t random;
    if (getrandom(&random, sizeof random, 0) != sizeof random) die("getrandom");
    struct half *user = &halves[2 * (random % (uint32_t)options.pairs)];
    if (user->allowed > 0) continue;  // drawn twice
    for (int side = 0; side < 2; side++) {
      user[side].allowed = 1;
      push(&user[side]);
    }
  }
  return settle();
}

static void print_memory(const char *name, const struct memory *memory) {
  printf("\"%s\":{\"rssBytes\":%llu,\"pssBytes\":%llu,\"privateBytes\":%llu,\"anonymousBytes\":%llu}", name,
         (unsigned long long)memory->rss, (unsigned long long)memory->pss, (unsigned long long)memory->private,
         (unsigned long long)memory->anonymous);
}

static void usage(void) {
  fputs("usage: idle --port PORT --user-path TARGET --device-path TARGET --pid PID [--pairs N] [--base-pairs N (fewer)]\n"
        "            [--settle SECONDS (before each look at the memory)] [--duration SECONDS] [--concurrency UPGRADES]\n"
        "            [--rate HALVES (connected a second, at most)] [--sources N] [--tls]\n"
        "{pair} in a target stands for the number of the pair; --pid is the relay whose memory and CPU time are read;\n"
        "--sources: over how many loopback addresses the connections spread.\n", stderr);
  exit(2);
}

static void parse(int argc, char **argv) {
  static const struct option known[] = {
      {"port", 1, 0, 'p'},   {"user-path", 1, 0, 'u'}, {"device-path", 1, 0, 'd'}, {"pairs", 1, 0, 'n'},
      {"pid", 1, 0, 'i'},    {"base-pairs", 1, 0, 'b'}, {"settle", 1, 0, 'e'},     {"duration", 1, 0, 't'},
      {"rate", 1, 0, 'r'},   {"concurrency", 1, 0, 'c'}, {"sources", 1, 0, 's'},   {"tls", 0, 0, 'l'},
      {0, 0, 0, 0}};
  struct target *target = &options.target;
  for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
    if (option == 'p') target->port = atoi(optarg);
    else if (option == 'u') target->user_path = optarg;
    else if (option == 'd') target->device_path = optarg;
    else if (option == 'n') options.pairs = atoi(optarg);
    else if (option == 'b') options.base_pairs = atoi(optarg);
    else if (option == 'i' && strchr(optarg, ',') == NULL && (options.pid = relay_pids(optarg)) > 0) continue;
    else if (option == 'e') options.settle_seconds = atof(optarg);
    else if (option == 't') options.duration_seconds = atof(optarg);
    else if (option == 'r') target->halves_per_second = atof(optarg);
    else if (option == 'c') target->concurrency = atoi(optarg);
    else if (option == 's') target->sources = atoi(optarg);
    else if (option == 'l') use_tls();
    else usage();
  }
  bool paths = target->user_path != NULL && target->device_path != NULL;
  if (!paths || optind < argc || target->port <= 0 || target->port > 65535 || options.pid <= 0 || options.base_pairs < 1 ||
      options.pairs <= options.base_pairs || options.settle_seconds < 0 || !(options.duration_seconds > 0) ||
      target->concurrency < 1 || target->sources < 1 || target->sources > MAX_SOURCES || target->halves_per_second < 0) usage();
}

int main(int argc, char **argv) {
  parse(argc, argv);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  raise_open_files(2 * (uint64_t)options.pairs);
  prepare_frames(MIN_PAYLOAD, 1);
  prepare_pairs(options.pairs);
  uint64_t start = clock_ns(CLOCK_MONOTONIC);
  connect_more(options.base_pairs, &options.target);
  rest(options.settle_seconds);
  struct memory base = read_memory();
  connect_more(options.pairs - options.base_pairs, &options.target);
  double connected = (double)(clock_ns(CLOCK_MONOTONIC) - start) / 1e9 - options.settle_seconds;
  rest(options.settle_seconds);
  struct memory all = read_memory();

  struct notices before = notices;
  uint64_t begin = clock_ns(CLOCK_MONOTONIC), own_cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
  uint64_t relay_cpu = relay_cpu_ns();
  rest(options.duration_seconds);
  double seconds = (double)(clock_ns(CLOCK_MONOTONIC) - begin) / 1e9;
  relay_cpu = relay_cpu_ns() - relay_cpu;
  own_cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - own_cpu;
  struct notices after = notices;

  uint64_t lost = probe();
  for (int i = 0; i < half_count; i++) half_close(&halves[i]);
  const int more = 2 * (options.pairs - options.base_pairs);
  printf("{\"halves\":%d,\"baseHalves\":%d,\"tls\":%s,\"connectSeconds\":%.3f,\"seconds\":%.6f", half_count,
         2 * options.base_pairs, tls_in_use() ? "true" : "false", connected, seconds);
  printf(",\"baseRssBytes\":%llu,\"rssBytes\":%llu,\"residentBytesPerHalf\":%.1f,\"anonymousBytesPerHalf\":%.1f,",
         (unsigned long long)base.rss, (unsigned long long)all.rss, ((double)all.rss - (double)base.rss) / more,
         ((double)all.anonymous - (double)base.anonymous) / more);
  print_memory("baseMemory", &base);
  printf(",");
  print_memory("memory", &all);
  printf(",\"relayCpuSeconds\":%.6f,\"relayCpuPercent\":%.4f,\"generatorCpuSeconds\":%.6f", (double)relay_cpu / 1e9,
         (double)relay_cpu / 1e7 / seconds, (double)own_cpu / 1e9);
  printf(",\"pingsAnswered\":%llu,\"textsReceived\":%llu,\"probeMessages\":%llu",
         (unsigned long long)(after.pings_answered - before.pings_answered),
         (unsigned long long)(after.texts - before.texts), (unsigned long long)messages);
  printf(",\"errors\":{\"order\":%llu,\"content\":%llu,\"protocol\":%llu,\"closed\":%llu,\"lost\":%llu}}\n",
         (unsigned long long)faults.order, (unsigned long long)faults.content, (unsigned long long)faults.protocol,
         (unsigned long long)faults.closed, (unsigned long long)lost);
  return faults.order + faults.content + faults.protocol + faults.closed + lost == 0 ? 0 : 1;
}
