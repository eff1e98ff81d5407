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

/** User and system time of all threads of a process, those that have ended too, in nanoseconds; 0 for pid 0. */
uint64_t process_cpu_ns(int pid);

/** Connects all halves and waits for their greetings; `{pair}` in a request target becomes the pair's number. */
void connect_pairs(int pairs, int port, const char *user_path, const char *device_path);

/** Sends what has been released and asks for EPOLLOUT only while the socket is full. */
void push(struct half *half);

/** Waits up to `timeout_ms` for sockets and serves them once. */
void turn(int timeout_ms);

/** Turns until everything sent has arrived, or nothing has come for two seconds; returns how many are missing. */
uint64_t settle(void);
