// Connection set-up: C pairs are always on their way through a short life. Both halves connect and upgrade, the greeting
// comes, the user half says goodbye, the relay passes that on or says it itself, the device half answers, and the relay
// ends both connections, as it does a browser's. Nothing blocks; one thread. Prints one JSON object: how many halves
// went through in the measured interval, and what CPU time the relay used for it.

#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/random.h>

#include "pairs.h"
#include "upgrade.h"

// A relay with so many faults has no speed, so that the run ends early.
enum { MAX_EVENTS = 512, READ_BYTES = 64 * 1024, MAX_ERRORS = 1000, MAX_SOURCES = 60000, SWEEP_MS = 100 };

static struct {
  int port, concurrency, sources, pid;
  bool abrupt_ends;  // a device half whose connection ends without a close frame is no fault
  uint64_t first;
  double warmup_seconds, duration_seconds, timeout_seconds;
  const char *user_path, *device_path;
} options = {.concurrency = 16, .sources = 64, .warmup_seconds = 1, .duration_seconds = 2, .timeout_seconds = 10};

/** One pair's life; over and over again with the next pair's number. */
struct attempt {
  struct half halves[2];  // user, device
  int open;               // connections that have not ended
  uint64_t begun;
};

/** What is known at one moment; the difference of two is the measured interval. */
struct snapshot {
  uint64_t at, halves, own_cpu, relay_cpu;
};

static struct errors {
  uint64_t refused, closed, protocol, timeout;
} errors;
static struct attempt *attempts;
static uint64_t next_pair, finished_halves, abrupt_ends;
static bool stopping;

static uint64_t all_errors(void) { return errors.refused + errors.closed + errors.protocol + errors.timeout; }

void message_arrived(struct half *half, uint64_t sequence) { (void)half, (void)sequence; }

/** Gives the whole pair up. The first fault of each kind is told on stderr, what it was in. */
static void give_up(struct attempt *attempt, uint64_t *counter, const char *why) {
  if ((*counter)++ == 0) fprintf(stderr, "load: %s\n", why);
  for (int i = 0; i < 2; i++) half_drop(&attempt->halves[i]);
  attempt->open = 0;
}

/** The connection ended, which is in order once both sides have said goodbye. */
static void end(struct attempt *attempt, struct half *half) {
  if (!half->close_sent || !half->close_received) {
    bool abrupt = attempt->halves[0].close_sent;  // the pair's end was asked for, so the session was not cut
    abrupt_ends += abrupt;
    if (!abrupt || !options.abrupt_ends) return give_up(attempt, &errors.closed, "closed without a close frame");
  }
  half_drop(half);
  attempt->open--;
  finished_halves++;
}

/** What the bytes that half_receive has just taken ask for; false where the pair was given up. */
static bool react(struct attempt *attempt, struct half *half) {
  static uint64_t messages;  // that nobody has sent
  if (half->violated || faults.content + faults.order > messages) {
    messages = faults.content + faults.order;
    give_up(attempt, &errors.protocol, "not what a relay sends");
    return false;
  }
  if (!half->close_received || half->close_sent) return true;
  if (!attempt->halves[0].close_sent) {
    give_up(attempt, &errors.closed, "a close frame nobody asked for");
    return false;
  }
  // An answer that the relay no longer takes shows as the end of the connection, which comes next.
  (void)half_goodbye(half);
  return true;
}

/** Reads until the socket is empty: it is watched for edges. */
static void drain(struct attempt *attempt, struct half *half) {
  static uint8_t room[READ_BYTES];
  while (half->fd >= 0) {
    ssize_t got = transport_recv(half->fd, half->tls, room, sizeof room);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) break;
    if (got < 0 && errno == EPROTO) return give_up(attempt, &errors.protocol, "broken TLS");
    if (got <= 0) return end(attempt, half);
    if (half->close_received) continue;  // what comes behind a close frame is to be ignored
    half_receive(half, room, (size_t)got);
    if (!react(attempt, half)) return;
  }
}

static void progress(struct attempt *attempt, struct half *half) {
  if (half->fd < 0) return;
  if (half->upgrade != NULL) {
    enum upgrade_state state = half_upgrade(half);
    if (state == UPGRADE_GOES_ON) return;
    uint64_t *counter = state == UPGRADE_REFUSED ? &errors.refused : state == UPGRADE_CLOSED ? &errors.closed : &errors.protocol;
    if (state != UPGRADE_DONE) return give_up(attempt, counter, upgrade_failure);
    if (!react(attempt, half)) return;
  }
  if (transport_flush(half->tls) < 0) return end(attempt, half);
  drain(attempt, half);
  if (half->fd >= 0 && half->control_length > 0 && !half_send(half)) return end(attempt, half);
  struct half *user = &attempt->halves[0];
  if (!user->greeted || !attempt->halves[1].greeted || user->close_sent) return;
  if (!half_goodbye(user)) give_up(attempt, &errors.closed, "the user half's connection broke");
}

static void begin(struct attempt *attempt) {
  uint64_t pair = next_pair++;
  memset(attempt, 0, sizeof *attempt);
  attempt->begun = clock_ns(CLOCK_MONOTONIC);
  attempt->open = 2;
  attempt->halves[0].fd = attempt->halves[1].fd = -1;
  for (int i = 0; i < 2 && attempt->open == 2; i++) {
    struct half *half = &attempt->halves[(pair + (uint64_t)i) % 2];  // each side is the first one half of the time
    half->user = half == &attempt->halves[0];
    half_begin(half, half->user ? options.user_path : options.device_path, pair);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = half};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, half->fd, &event) != 0) die("epoll_ctl");
    progress(attempt, half);
  }
}

static void find_timeouts(uint64_t now) {
  for (int i = 0; i < options.concurrency; i++) {
    struct attempt *attempt = &attempts[i];
    if (attempt->open == 0 || now < attempt->begun + (uint64_t)(options.timeout_seconds * 1e9)) continue;
    bool greeted = attempt->halves[0].greeted && attempt->halves[1].greeted;
    give_up(attempt, &errors.timeout, greeted ? "timed out while the pair ended" : "timed out before the greeting");
  }
}

/** Until `time`; while `stopping`, until the last pair has ended. */
static void run_until(uint64_t time) {
  static uint64_t swept;
  for (;;) {
    int open = 0;
    for (int i = 0; i < options.concurrency; i++) {
      if (attempts[i].open == 0 && !stopping) begin(&attempts[i]);
      open += attempts[i].open;
    }
    if (stopping && open == 0) return;
    struct epoll_event events[MAX_EVENTS];
    // A begin that failed at once is tried again at once.
    int count = epoll_wait(poller, events, MAX_EVENTS, open < options.concurrency ? 1 : SWEEP_MS / 2);
    if (count < 0 && errno != EINTR) die("epoll_wait");
    for (int i = 0; i < count; i++) {
      struct half *half = events[i].data.ptr;  // its connection may be a newer one by now: then there is nothing to do
      progress((struct attempt *)(half->user ? half : half - 1), half);
    }
    uint64_t now = clock_ns(CLOCK_MONOTONIC);
    if (now >= swept + SWEEP_MS * 1000000ULL) {
      swept = now;
      find_timeouts(now);
    }
    if (now >= time || all_errors() >= MAX_ERRORS) return;
  }
}

static struct snapshot snapshot(void) {
  return (struct snapshot){.at = clock_ns(CLOCK_MONOTONIC),
                           .halves = finished_halves,
                           .own_cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID),
                           .relay_cpu = relay_cpu_ns()};
}

/** Prints the result; returns the number of faults. */
static uint64_t report(const struct snapshot *begin, const struct snapshot *end) {
  double seconds = (double)(end->at - begin->at) / 1e9, relay = (double)(end->relay_cpu - begin->relay_cpu) / 1e9;
  uint64_t count = end->halves - begin->halves;
  printf("{\"concurrency\":%d,\"tls\":%s,\"seconds\":%.6f,\"halves\":%llu,\"halvesPerSecond\":%.1f,\"allHalves\":%llu",
         options.concurrency, tls_in_use() ? "true" : "false", seconds, (unsigned long long)count, (double)count / seconds,
         (unsigned long long)finished_halves);
  printf(",\"generatorCpuSeconds\":%.6f", (double)(end->own_cpu - begin->own_cpu) / 1e9);
  if (options.pid != 0) {
    printf(",\"relayCpuSeconds\":%.6f", relay);
    if (count > 0) printf(",\"relayCpuMicrosPerHalf\":%.4f", relay * 1e6 / (double)count);
  }
  printf(",\"abruptEnds\":%llu,\"errors\":{\"refused\":%llu,\"closed\":%llu,\"protocol\":%llu,\"timeout\":%llu}}\n",
         (unsigned long long)abrupt_ends, (unsigned long long)errors.refused, (unsigned long long)errors.closed,
         (unsigned long long)errors.protocol, (unsigned long long)errors.timeout);
  return all_errors();
}

static void usage(void) {
  fputs("usage: setup --port PORT --user-path TARGET --device-path TARGET [--concurrency PAIRS] [--warmup SECONDS]\n"
        "             [--duration SECONDS] [--timeout SECONDS (for one pair's life)] [--sources N] [--first N] [--pid PID[,PID]]\n"
        "             [--device-port PORT] [--tls] [--allow-abrupt-ends]\n"
        "{pair} in a target stands for the number of the pair, which counts up from --first (random) for ever; --sources:\n"
        "over how many loopback addresses the connections spread; --pid is the relay whose CPU time is read;\n"
        "--allow-abrupt-ends: a half whose connection just ends after the user half's goodbye is no fault;\n"
        "--device-port: where device halves connect to, if elsewhere; --pid P,Q: the CPU time of both.\n", stderr);
  exit(2);
}

static void parse(int argc, char **argv) {
  static const struct option known[] = {
      {"port", 1, 0, 'p'},    {"user-path", 1, 0, 'u'}, {"device-path", 1, 0, 'd'}, {"concurrency", 1, 0, 'c'},
      {"warmup", 1, 0, 'a'},  {"duration", 1, 0, 't'},  {"timeout", 1, 0, 'o'},     {"sources", 1, 0, 's'},
      {"first", 1, 0, 'f'},   {"pid", 1, 0, 'r'},       {"tls", 0, 0, 'l'},         {"allow-abrupt-ends", 0, 0, 'e'},
      {"device-port", 1, 0, 'D'}, {0, 0, 0, 0}};
  if (getrandom(&options.first, 6, 0) != 6) die("getrandom");  // 48 bits, so that it never wraps
  for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
    if (option == 'p') options.port = atoi(optarg);
    else if (option == 'u') options.user_path = optarg;
    else if (option == 'd') options.device_path = optarg;
    else if (option == 'D' && use_device_port(optarg)) continue;
    else if (option == 'c') options.concurrency = atoi(optarg);
    else if (option == 'a') options.warmup_seconds = atof(optarg);
    else if (option == 't') options.duration_seconds = atof(optarg);
    else if (option == 'o') options.timeout_seconds = atof(optarg);
    else if (option == 's') options.sources = atoi(optarg);
    else if (option == 'f') options.first = strtoull(optarg, NULL, 10);
    else if (option == 'r' && (options.pid = relay_pids(optarg)) > 0) continue;
    else if (option == 'l') use_tls();
    else if (option == 'e') options.abrupt_ends = true;
    else usage();
  }
  bool paths = options.user_path != NULL && options.device_path != NULL;
  if (!paths || optind < argc || options.port <= 0 || options.port > 65535 || options.concurrency < 1 ||
      options.sources < 1 || options.sources > MAX_SOURCES || options.warmup_seconds < 0 ||
      !(options.duration_seconds > 0) || !(options.timeout_seconds > 0)) usage();
}

int main(int argc, char **argv) {
  parse(argc, argv);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  prepare_frames(MIN_PAYLOAD, 1);
  prepare_upgrades(options.port, options.sources);
  next_pair = options.first;
  attempts = calloc((size_t)options.concurrency, sizeof *attempts);
  poller = epoll_create1(EPOLL_CLOEXEC);
  if (attempts == NULL || poller < 0) die("start");
  raise_open_files(2 * (uint64_t)options.concurrency);
  run_until(clock_ns(CLOCK_MONOTONIC) + (uint64_t)(options.warmup_seconds * 1e9));
  struct snapshot begin = snapshot();
  run_until(begin.at + (uint64_t)(options.duration_seconds * 1e9));
  struct snapshot end = snapshot();
  stopping = true;  // what is under way must come to its end too
  run_until(UINT64_MAX);
  return report(&begin, &end) == 0 ? 0 : 1;
}
