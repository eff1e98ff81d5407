// Counts of durations in log-linear buckets: 64 per power of two, so a percentile is right to 1.6 %.
#pragma once

#include <stdint.h>
#include <stdio.h>
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

/** What a bucket's entries count as: its middle, but never more than the largest entry. */
static inline double histogram_value(const struct histogram *histogram, uint64_t bucket) {
  int shift = bucket < 2 * SUB_BUCKETS ? 0 : (int)(bucket / SUB_BUCKETS) - 1;
  uint64_t low = bucket < 2 * SUB_BUCKETS ? bucket : (bucket % SUB_BUCKETS + SUB_BUCKETS) << shift;
  double middle = (double)low + (double)((1ULL << shift) - 1) / 2;
  return middle < (double)histogram->max ? middle : (double)histogram->max;
}

/** The smallest value that `fraction` (0..1) of all entries do not exceed: the middle of its bucket. 0 where there are none. */
static inline double histogram_percentile(const struct histogram *histogram, double fraction) {
  double rank = fraction * (double)histogram->total;
  uint64_t seen = 0;
  for (uint64_t i = 0; i < BUCKETS; i++) {
    seen += histogram->counts[i];
    if (seen > 0 && (double)seen >= rank) return histogram_value(histogram, i);
  }
  return (double)histogram->max;
}

/** Prints percentiles of nanoseconds as a JSON object of microseconds. */
static inline void histogram_print_micros(const struct histogram *histogram) {
  printf("{\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f}",
         histogram_percentile(histogram, 0.5) / 1e3, histogram_percentile(histogram, 0.9) / 1e3,
         histogram_percentile(histogram, 0.99) / 1e3, histogram_percentile(histogram, 0.999) / 1e3,
         (double)histogram->max / 1e3);
}

/** Prints all buckets that are not empty as a JSON array of [value, count], ascending; the last value is the maximum. */
static inline void histogram_print(const struct histogram *histogram) {
  uint64_t seen = 0;
  putchar('[');
  for (uint64_t i = 0; i < BUCKETS && seen < histogram->total; i++) {
    if (histogram->counts[i] == 0) continue;
    if (seen > 0) putchar(',');
    seen += histogram->counts[i];
    double value = seen == histogram->total ? (double)histogram->max : histogram_value(histogram, i);
    printf("[%.0f,%llu]", value, (unsigned long long)histogram->counts[i]);
  }
  putchar(']');
}
