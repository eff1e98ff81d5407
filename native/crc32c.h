// CRC-32C (Castagnoli), as in iSCSI and ext4: reflected polynomial 0x82f63b78, start and end inverted.
// By the processor's own instruction where it has one (SSE 4.2), else by tables, eight bytes at a time.
//
// The instruction can be begun in every cycle but takes three, so long data is cut into thirds that are gone through
// side by side. The CRC is linear: that of A then B is B's, started at 0, and A's moved on over as many zeros. The
// processor's own prefetching does not see through three short streams: the next thirds are asked for in advance.
//
// Where the processor multiplies polynomials four at a time (VPCLMULQDQ with AVX-512), long data is folded: what is
// ahead is replaced by a remainder that stands further back, until the last 256 bytes have the CRC of it all.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace couplet {

namespace crc32c_detail {

constexpr std::array<std::array<uint32_t, 256>, 8> makeTables() {
  std::array<std::array<uint32_t, 256>, 8> tables{};
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78u : 0u);
    tables[0][i] = crc;
  }
  for (uint32_t i = 0; i < 256; i++) {
    for (size_t t = 1; t < 8; t++) tables[t][i] = (tables[t - 1][i] >> 8) ^ tables[0][tables[t - 1][i] & 0xff];
  }
  return tables;
}

inline constexpr auto kTables = makeTables();

inline uint32_t byTables(uint32_t crc, const char* data, size_t length) {
  const auto* at = reinterpret_cast<const uint8_t*>(data);
  for (; length >= 8; at += 8, length -= 8) {
    // Byte by byte, so that it is right on either endianness; compilers make one load of it.
    const uint32_t low = crc ^ (static_cast<uint32_t>(at[0]) | static_cast<uint32_t>(at[1]) << 8 |
                                static_cast<uint32_t>(at[2]) << 16 | static_cast<uint32_t>(at[3]) << 24);
    crc = kTables[7][low & 0xff] ^ kTables[6][(low >> 8) & 0xff] ^ kTables[5][(low >> 16) & 0xff] ^
          kTables[4][low >> 24] ^ kTables[3][at[4]] ^ kTables[2][at[5]] ^ kTables[1][at[6]] ^ kTables[0][at[7]];
  }
  for (; length != 0; at++, length--) crc = (crc >> 8) ^ kTables[0][(crc ^ *at) & 0xff];
  return crc;
}

#if defined(__x86_64__)
// What a CRC becomes over `third` zeros, by its four bytes.
template <size_t third>
constexpr std::array<std::array<uint32_t, 256>, 4> makeZeros() {
  std::array<uint32_t, 32> ofBit{};
  for (uint32_t bit = 0; bit < 32; bit++) {
    uint32_t crc = 1u << bit;
    for (size_t i = 0; i < third; i++) crc = (crc >> 8) ^ kTables[0][crc & 0xff];
    ofBit[bit] = crc;
  }
  std::array<std::array<uint32_t, 256>, 4> zeros{};
  for (uint32_t byte = 0; byte < 4; byte++) {
    for (uint32_t value = 0; value < 256; value++) {
      for (uint32_t bit = 0; bit < 8; bit++) {
        if ((value >> bit & 1) != 0) zeros[byte][value] ^= ofBit[byte * 8 + bit];
      }
    }
  }
  return zeros;
}

template <size_t third>
inline constexpr auto kZeros = makeZeros<third>();

template <size_t third>
uint32_t overZeros(uint32_t crc) {
  constexpr auto& zeros = kZeros<third>;
  return zeros[0][crc & 0xff] ^ zeros[1][crc >> 8 & 0xff] ^ zeros[2][crc >> 16 & 0xff] ^ zeros[3][crc >> 24];
}

inline uint64_t wordAt(const char* data) {
  uint64_t word;
  memcpy(&word, data, sizeof word);
  return word;
}

constexpr size_t kCacheLine = 64;

// Goes through as many three thirds as there are; moves `data` and `length` on over them.
template <size_t third>
__attribute__((target("sse4.2"))) uint32_t byThirds(uint32_t start, const char*& data, size_t& length) {
  uint32_t crc = start;
  for (; length >= 3 * third; data += 3 * third, length -= 3 * third) {
    uint64_t one = crc, two = 0, three = 0;
    for (size_t line = 0; line < third; line += kCacheLine) {
      for (size_t i = 0; i < 3; i++) __builtin_prefetch(data + (3 + i) * third + line);
      for (const char* at = data + line; at != data + line + kCacheLine; at += 8) {
        one = _mm_crc32_u64(one, wordAt(at));
        two = _mm_crc32_u64(two, wordAt(at + third));
        three = _mm_crc32_u64(three, wordAt(at + 2 * third));
      }
    }
    crc = overZeros<third>(overZeros<third>(static_cast<uint32_t>(one)) ^ static_cast<uint32_t>(two)) ^
          static_cast<uint32_t>(three);
  }
  return crc;
}

__attribute__((target("sse4.2"))) inline uint32_t byInstruction(uint32_t start, const char* data, size_t length) {
  uint64_t crc = byThirds<128>(byThirds<1024>(start, data, length), data, length);
  for (; length >= 8; data += 8, length -= 8) crc = _mm_crc32_u64(crc, wordAt(data));
  auto rest = static_cast<uint32_t>(crc);
  for (; length != 0; data++, length--) rest = _mm_crc32_u8(rest, static_cast<uint8_t>(*data));
  return rest;
}

constexpr size_t kFoldBytes = 256;
constexpr size_t kFoldedFromBytes = 3 * kFoldBytes;

// The polynomial x^power modulo the CRC's, in the order of bits that multiplying reflected words asks for.
constexpr int64_t powerOfX(size_t power) {
  uint32_t value = 0x80000000;
  for (size_t i = 0; i < power; i++) value = (value >> 1) ^ ((value & 1) != 0 ? 0x82f63b78u : 0u);
  return static_cast<int64_t>(uint64_t{value} << 1);
}

// `length` is at least kFoldBytes.
__attribute__((target("avx512f,vpclmulqdq,sse4.2"))) inline uint32_t byFolding(uint32_t start, const char* data,
                                                                              size_t length) {
  constexpr int64_t first = powerOfX(kFoldBytes * 8 + 32), second = powerOfX(kFoldBytes * 8 - 32);
  const __m512i over = _mm512_set_epi64(second, first, second, first, second, first, second, first);
  __m512i folded[4];
  for (size_t i = 0; i < 4; i++) folded[i] = _mm512_loadu_si512(data + i * 64);
  folded[0] = _mm512_xor_si512(folded[0], _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(start))));
  for (data += kFoldBytes, length -= kFoldBytes; length >= kFoldBytes; data += kFoldBytes, length -= kFoldBytes) {
    for (size_t i = 0; i < 4; i++) {
      const __m512i low = _mm512_clmulepi64_epi128(folded[i], over, 0x00);
      const __m512i high = _mm512_clmulepi64_epi128(folded[i], over, 0x11);
      folded[i] = _mm512_ternarylogic_epi64(low, high, _mm512_loadu_si512(data + i * 64), 0x96);
    }
  }
  char last[kFoldBytes];
  for (size_t i = 0; i < 4; i++) _mm512_storeu_si512(last + i * 64, folded[i]);
  return byInstruction(byInstruction(0, last, sizeof last), data, length);
}
#endif

}  // namespace crc32c_detail

// The CRC of bytes that follow those whose CRC is `crc`; 0 to start.
inline uint32_t crc32c(uint32_t crc, const char* data, size_t length) {
#if defined(__x86_64__)
  static const bool hasInstruction = __builtin_cpu_supports("sse4.2") != 0;
  static const bool canFold = __builtin_cpu_supports("vpclmulqdq") != 0 && __builtin_cpu_supports("avx512f") != 0;
  if (canFold && length >= crc32c_detail::kFoldedFromBytes) return ~crc32c_detail::byFolding(~crc, data, length);
  if (hasInstruction) return ~crc32c_detail::byInstruction(~crc, data, length);
#endif
  return ~crc32c_detail::byTables(~crc, data, length);
}

}  // namespace couplet
