// Client frames in, server frames out, in place: what is written is never longer than what was read.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { MAX_HEADER = 14 };

/** Where one direction stands between two reads. */
struct frame_state {
  uint64_t payload_left;       // bytes of the current frame's payload that have not been read yet
  uint32_t mask;               // its masking key, turned so that its first byte belongs to the next payload byte
  uint8_t carry[MAX_HEADER];   // the start of a header whose rest has not arrived
  size_t carried;
  bool closing;                // a close frame has begun: it is the last one
};

typedef uint8_t vec16 __attribute__((vector_size(16)));

/** Moves `length` bytes from `in` down to `out` (out <= in, they may overlap) and takes the mask off on the way. */
static inline void unmask_move(uint8_t *out, const uint8_t *in, size_t length, uint32_t mask) {
  vec16 key;
  for (int i = 0; i < 16; i += 4) memcpy((uint8_t *)&key + i, &mask, 4);
  size_t i = 0;
  for (; i + 64 <= length; i += 64) {  // all loads before all stores: the stores may run over what was loaded
    vec16 a, b, c, d;
    memcpy(&a, in + i, 16), memcpy(&b, in + i + 16, 16), memcpy(&c, in + i + 32, 16), memcpy(&d, in + i + 48, 16);
    a ^= key, b ^= key, c ^= key, d ^= key;
    memcpy(out + i, &a, 16), memcpy(out + i + 16, &b, 16), memcpy(out + i + 32, &c, 16), memcpy(out + i + 48, &d, 16);
  }
  for (; i + 4 <= length; i += 4) {
    uint32_t word;
    memcpy(&word, in + i, 4);
    word ^= mask;
    memcpy(out + i, &word, 4);
  }
  for (; i < length; i++) out[i] = in[i] ^ ((const uint8_t *)&mask)[i & 3];
}

/**
 * Turns what was read into what the mate gets. `data` needs MAX_HEADER writable bytes in front of it.
 * Sets `*result` to the output's start and returns its length, or -1 where a frame has no mask or a reserved bit.
 */
static inline ptrdiff_t rewrite_frames(struct frame_state *state, uint8_t *data, size_t length, uint8_t **result) {
  data -= state->carried;
  memcpy(data, state->carry, state->carried);
  const uint8_t *in = data, *end = data + length + state->carried;
  uint8_t *out = data;
  state->carried = 0;
  *result = data;
  while (in < end) {
    size_t available = (size_t)(end - in);
    if (state->payload_left == 0) {
      uint8_t code = available > 1 ? in[1] & 127 : 0;
      size_t extended = code == 127 ? 8 : code == 126 ? 2 : 0;
      if (available < 2 || available < 2 + extended + 4) {
        memcpy(state->carry, in, available);
        state->carried = available;
        break;
      }
      if ((in[1] & 128) == 0 || (in[0] & 0x70) != 0) return -1;
      uint64_t payload = extended == 0 ? code : 0;
      for (size_t i = 0; i < extended; i++) payload = payload << 8 | in[2 + i];
      memcpy(&state->mask, in + 2 + extended, 4);
      if ((in[0] & 15) == 8) state->closing = true;
      out[0] = in[0];
      out[1] = code;
      memmove(out + 2, in + 2, extended);
      in += 2 + extended + 4;
      out += 2 + extended;
      state->payload_left = payload;
      continue;
    }
    size_t chunk = state->payload_left < available ? (size_t)state->payload_left : available;
    unmask_move(out, in, chunk, state->mask);
    int turn = (int)(chunk & 3) * 8;  // little-endian: the key's first byte is its lowest
    if (turn != 0) state->mask = state->mask >> turn | state->mask << (32 - turn);
    state->payload_left -= chunk;
    in += chunk;
    out += chunk;
  }
  return out - data;
}
