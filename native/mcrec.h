// The bytes of a recording [M1] and of its sidecar [M8]. All numbers are big-endian.
//
// The sidecar NAME.mcrec.cpt: a header, then one record for each block of TYPE 1 and 2, in their order. The end block
// and an index have none, as indexing replaces them. Header and records are 24 bytes each:
//
//   header  0  8 bytes  "MCRECCPT"
//           8  u16      version, 1
//          10  u16      length of a record, 24
//          12  u32      CRC-32C of the header's other 20 bytes (0-11, 16-23)
//          16  u64      wall clock when the file was opened, nanoseconds since 1970-01-01 UTC
//
//   record  0  u64      arrival of the block's message, microseconds since 1970-01-01 UTC; TIME is this / 1000
//           8  u32      number of the block, from 0 (the header block), modulo 2^32
//          12  u32      SIZE of the block
//          16  u32      CRC-32C of the block's data
//          20  u32      CRC-32C of the record's first 20 bytes
//
// A record that does not check, and all after it, say nothing: a crash may have cut or emptied the file's tail.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "crc32c.h"

namespace couplet {

enum BlockType : uint16_t { kHeaderBlock = 1, kDataBlock = 2, kEndBlock = 3 };
// Flags of a block: the data is binary, else text; it came from the user half, else from the device half.
enum BlockFlag : uint16_t { kBinaryData = 1, kFromUser = 2 };

constexpr size_t kBlockHeaderBytes = 16;
constexpr char kEndMagic[] = "MeshCentralMCREC";
constexpr size_t kEndMagicBytes = 16;
constexpr size_t kEndBlockBytes = kBlockHeaderBytes + kEndMagicBytes;
constexpr size_t kSidecarRecordBytes = 24;

template <class T>
void storeBig(char* at, T value) {
  static_assert(sizeof(T) > 1);
  for (size_t i = sizeof(T); i-- > 0; value = static_cast<T>(value >> 8)) at[i] = static_cast<char>(value & 0xff);
}

template <class T>
T loadBig(const char* at) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); i++) value = static_cast<T>(value << 8 | static_cast<uint8_t>(at[i]));
  return value;
}

// Bytes 8-9, the upper two of TIME, stay zero [M4].
inline void storeBlockHeader(char* at, uint16_t type, uint16_t flags, uint32_t size, uint64_t milliseconds) {
  storeBig<uint16_t>(at, type);
  storeBig<uint16_t>(at + 2, flags);
  storeBig<uint32_t>(at + 4, size);
  storeBig<uint64_t>(at + 8, milliseconds & 0xffffffffffff);
}

inline void storeEndBlock(char* at, int64_t wallNs) {
  storeBlockHeader(at, kEndBlock, 0, kEndMagicBytes, static_cast<uint64_t>(wallNs) / 1'000'000);
  memcpy(at + kBlockHeaderBytes, kEndMagic, kEndMagicBytes);
}

// What stands in a block header's place on the way to the writer: also what the sidecar is to say of the block.
struct QueuedHeader {
  uint32_t size;
  uint32_t crc;
  uint64_t micros : 56;
  uint64_t type : 4;
  uint64_t flags : 4;
};
static_assert(sizeof(QueuedHeader) == kBlockHeaderBytes);

inline void storeSidecarHeader(char* at, int64_t startNs) {
  memcpy(at, "MCRECCPT", 8);
  storeBig<uint16_t>(at + 8, 1);
  storeBig<uint16_t>(at + 10, kSidecarRecordBytes);
  storeBig<uint64_t>(at + 16, static_cast<uint64_t>(startNs));
  storeBig<uint32_t>(at + 12, crc32c(crc32c(0, at, 12), at + 16, 8));
}

inline void storeSidecarRecord(char* at, uint64_t micros, uint32_t number, uint32_t size, uint32_t crc) {
  storeBig<uint64_t>(at, micros);
  storeBig<uint32_t>(at + 8, number);
  storeBig<uint32_t>(at + 12, size);
  storeBig<uint32_t>(at + 16, crc);
  storeBig<uint32_t>(at + 20, crc32c(0, at, 20));
}

}  // namespace couplet
