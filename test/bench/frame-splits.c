// Feeds the floor's frame rewriting every way to cut a stream of client frames into three reads, and compares what
// comes out with the server frames built independently. Exits 1 with a line on stderr at the first difference.

#include <stdio.h>
#include <stdlib.h>

#include "../../bench/floor/frame.h"

enum { ROOM = 512 * 1024 };

static uint8_t client[ROOM], wanted[ROOM], got[ROOM], room[MAX_HEADER + ROOM];
static size_t client_length, wanted_length;
static uint32_t random_state = 1;

static uint32_t next_random(void) {
  random_state = random_state * 1664525u + 1013904223u;
  return random_state >> 8;
}

static size_t put_header(uint8_t *out, uint8_t first, size_t length, uint8_t mask_bit) {
  size_t extended = length < 126 ? 0 : length < 65536 ? 2 : 8;
  out[0] = first;
  out[1] = mask_bit | (uint8_t)(extended == 0 ? length : extended == 2 ? 126 : 127);
  for (size_t i = 0; i < extended; i++) out[2 + i] = (uint8_t)((uint64_t)length >> 8 * (extended - 1 - i));
  return 2 + extended;
}

static void add_frame(uint8_t first, size_t length) {
  uint8_t mask[4];
  for (int i = 0; i < 4; i++) mask[i] = (uint8_t)next_random();
  client_length += put_header(client + client_length, first, length, 128);
  memcpy(client + client_length, mask, 4);
  client_length += 4;
  wanted_length += put_header(wanted + wanted_length, first, length, 0);
  for (size_t i = 0; i < length; i++) {
    uint8_t byte = (uint8_t)next_random();
    client[client_length++] = byte ^ mask[i % 4];
    wanted[wanted_length++] = byte;
  }
}

/** Cuts the client's bytes at `a` and `b`; each part goes into a room of its exact size at its end. */
static void check(size_t a, size_t b) {
  size_t cuts[] = {0, a, b, client_length}, got_length = 0;
  struct frame_state state = {0};
  for (int part = 0; part < 3; part++) {
    size_t length = cuts[part + 1] - cuts[part];
    uint8_t *data = room + sizeof room - length, *output;
    memcpy(data, client + cuts[part], length);
    ptrdiff_t produced = rewrite_frames(&state, data, length, &output);
    if (produced < 0) produced = 0;
    memcpy(got + got_length, output, (size_t)produced);
    got_length += (size_t)produced;
  }
  if (got_length == wanted_length && memcmp(got, wanted, got_length) == 0) return;
  fprintf(stderr, "cut at %zu and %zu of %zu: %zu bytes out, wanted %zu\n", a, b, client_length, got_length, wanted_length);
  exit(1);
}

static void start(void) { client_length = wanted_length = 0; }

static void check_refused(uint8_t first, uint8_t second) {
  struct frame_state state = {0};
  uint8_t *output;
  memset(room, 0, 64);
  room[MAX_HEADER] = first;
  room[MAX_HEADER + 1] = second;
  if (rewrite_frames(&state, room + MAX_HEADER, 20, &output) == -1) return;
  fprintf(stderr, "header %02x %02x was taken\n", first, second);
  exit(1);
}

int main(void) {
  static const size_t lengths[] = {0, 1, 2, 3, 5, 63, 64, 65, 125, 126, 130, 200};
  start();
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) add_frame(i % 2 == 0 ? 0x82 : 0x81, lengths[i]);
  for (size_t a = 0; a <= client_length; a++) {
    for (size_t b = a; b <= client_length; b++) check(a, b);
  }
  // Headers of the longest form, in front of and behind a payload of more than 65,535 bytes.
  start();
  add_frame(0x02, 7);
  add_frame(0x00, 65536);
  add_frame(0x89, 4);
  add_frame(0x80, 65600);
  for (size_t a = 0; a < 40; a++) {
    for (size_t b = a; b < 40; b++) check(a, b);
    for (size_t b = 65540; b < 65580; b++) check(a, b);
  }
  for (int i = 0; i < 2000; i++) {
    size_t a = next_random() % client_length, b = next_random() % client_length;
    check(a < b ? a : b, a < b ? b : a);
  }
  check_refused(0x82, 3);         // no mask
  check_refused(0xc2, 128 | 3);   // reserved bit
  puts("ok");
  return 0;
}
