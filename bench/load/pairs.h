// All pairs of a generator on one epoll set: connecting, reading, writing, waiting for what is under way.
#pragma once

#include <time.h>

#include "half.h"

/** 2i is the user half of pair i, 2i + 1 its device half. */
extern struct half *halves;
extern int half_count;
/** The epoll set; readable when `turn` has something to do. */
extern int poller;

/** Ends the program with a line on stderr that names the error in `errno`. */
_Noreturn void die(const char *what);

uint64_t clock_ns(clockid_t clock);

/**
 * Takes the processes that are the relay, as --pid names them: P or P,Q. Returns the first; 0 where it is no such list.
 * Ends the program where there is no such process.
 */
int relay_pids(const char *list);

/** User and system time of all threads of these processes, those that have ended too, in nanoseconds; 0 without any. */
uint64_t relay_cpu_ns(void);

/** Raises the limit of open files as far as `sockets` need. Ends the program where that is not allowed. */
void raise_open_files(uint64_t sockets);

/** How to reach a relay. `{pair}` in a request target becomes the pair's number. */
struct target {
  int port;
  const char *user_path, *device_path;
  int sources;              // over how many loopback addresses the halves spread
  int concurrency;          // most upgrades under way at once; 0: 1
  double halves_per_second;  // at most; 0: as fast as it goes
};

/** Connects all halves, one after the other, and waits for their greetings. */
void connect_pairs(int pairs, int port, const char *user_path, const char *device_path);

/** Makes room for as many pairs, none of which is connected: for connect_more. */
void prepare_pairs(int pairs);

/** Connects the next `pairs` of those there is room for, and waits for their greetings. Any failure ends the program. */
void connect_more(int pairs, const struct target *target);

/** Sends what has been released and asks for EPOLLOUT only while the socket is full. */
void push(struct half *half);

/** Reads at most `limit` bytes that have come for a half, whether muted or not, and sends what that releases. */
void pull(struct half *half, size_t limit);

/** From now on turn() does not read this half, or reads it again. */
void mute(struct half *half, bool muted);

/** Waits up to `timeout_ms` for sockets and serves them once. */
void turn(int timeout_ms);

/** Waives what is released and has not begun to leave, on all halves from `first` on. Returns how many messages that is. */
uint64_t waive_unsent(int first);

/** What was wrong, as the last member `"errors":{…}` of a JSON object. Returns the number of faults. */
uint64_t print_errors(uint64_t lost);

/** Turns until everything sent has arrived, or nothing has come for two seconds; returns how many are missing. */
uint64_t settle(void);
