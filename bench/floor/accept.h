// Sec-WebSocket-Accept (RFC 6455, 4.2.2): SHA-1 and base64 in their smallest form, so that the floor links nothing.
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <string.h>

static inline uint32_t sha1_rotate(uint32_t value, int bits) { return value << bits | value >> (32 - bits); }

static inline void sha1_block(uint32_t state[5], const uint8_t block[64]) {
  uint32_t w[80];
  for (int i = 0; i < 16; i++) {
    const uint8_t *p = block + 4 * i;
    w[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
  }
  for (int i = 16; i < 80; i++) w[i] = sha1_rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
  uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
  for (int i = 0; i < 80; i++) {
    uint32_t mix, constant;
    if (i < 20) mix = (b & c) | (~b & d), constant = 0x5a827999;
    else if (i < 40) mix = b ^ c ^ d, constant = 0x6ed9eba1;
    else if (i < 60) mix = (b & c) | (b & d) | (c & d), constant = 0x8f1bbcdc;
    else mix = b ^ c ^ d, constant = 0xca62c1d6;
    uint32_t next = sha1_rotate(a, 5) + mix + e + constant + w[i];
    e = d, d = c, c = sha1_rotate(b, 30), b = a, a = next;
  }
  state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

/** Writes the 28 characters of the accept value and a NUL. `key`: the 24 characters the client sent. */
static inline void websocket_accept(const char key[24], char accept[29]) {
  static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
  static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  enum { MESSAGE = 24 + 36 };  // one byte of padding and 8 of length no longer fit into the first block of 64

  uint8_t blocks[128] = {0};
  memcpy(blocks, key, 24);
  memcpy(blocks + 24, guid, 36);
  blocks[MESSAGE] = 0x80;
  blocks[126] = (MESSAGE * 8) >> 8;
  blocks[127] = (MESSAGE * 8) & 255;
  uint32_t state[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
  sha1_block(state, blocks);
  sha1_block(state, blocks + 64);

  uint8_t digest[21] = {0};  // 20 bytes and a zero, so that it is seven groups of three
  for (int i = 0; i < 20; i++) digest[i] = (uint8_t)(state[i / 4] >> (24 - 8 * (i % 4)));
  for (int i = 0; i < 7; i++) {
    uint32_t group = (uint32_t)digest[3 * i] << 16 | (uint32_t)digest[3 * i + 1] << 8 | digest[3 * i + 2];
    for (int j = 0; j < 4; j++) accept[4 * i + j] = alphabet[group >> (18 - 6 * j) & 63];
  }
  accept[27] = '=';
  accept[28] = 0;
}
