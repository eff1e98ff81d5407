// Counts of durations in log-linear buckets: 64 per power of two, so a percentile is right to 1.6 %.
#pragma once

#include <stdint.h>
#include <string.h>

enum { SUB_BITS = 6, SUB_BUCKETS = 1 << SUB_BITS, BUCKETS = (64 - SUB_BITS + 1) * SUB_BUCKETS };

struct histogram {
  uint64_t counts[BUCKETS];
  uint64_t total, max;
};

static inline void histogram_add(struct histogram *histogram, uint64_t value) {
  int shift = value < SUB_BUCKETS ? 0 : 63 - __builtin_clzll(value) - SUB_BITS;
  // With shift > 0 the value's top bit is SUB_BUCKETS itself, which places it one row further.
  histogram->counts[(uint64_t)shift * SUB_BUCKETS + (value >> shift)]++;
  histogram->total++;
  if (value > histogram->max) histogram->max = value;
}

/** The value below which `fraction` (0..1) of all entries lie: the middle of its bucket. 0 where there are none. */
static inline double histogram_percentile(const struct histogram *histogram, double fraction) {
  uint64_t wanted = (uint64_t)(fraction * (double)histogram->total), seen = 0;
  for (uint64_t i = 0; i < BUCKETS; i++) {
    seen += histogram->counts[i];
    if (seen <= wanted) continue;
    int shift = i < 2 * SUB_BUCKETS ? 0 : (int)(i / SUB_BUCKETS) - 1;
    uint64_t low = i < 2 * SUB_BUCKETS ? i : (i % SUB_BUCKETS + SUB_BUCKETS) << shift;
    double middle = (double)low + (double)((1ULL << shift) - 1) / 2;
    return middle < (double)histogram->max ? middle : (double)histogram->max;
  }
  return (double)histogram->max;
}
