// libFuzzer target: what is recorded, in whatever pieces and on disks with whatever faults, is read back by a reader
// that shares nothing with the recorder but the format, and is what it should be, byte for byte; and that reader takes
// any bytes, and any cut. A difference aborts.
//
//   byte 0   what the rest is: 0 a script (see fuzz::Script), 1 a recording as it is, 2 a sidecar (of these, modulo 3)
//   1, 2     where the file is cut: read again, it must have the blocks that end there
#include "recorder_script.h"

using namespace couplet;
using namespace couplet::fuzz;
using namespace couplet::test;

namespace {

// Bytes in memory of their very size, so that a step past their end is found out.
struct Exact {
  explicit Exact(std::string_view bytes) : size(bytes.size()), data(new char[bytes.size()]) {
    bytes.copy(data.get(), size);
  }
  std::string_view view() const { return {data.get(), size}; }
  const size_t size;
  const std::unique_ptr<char[]> data;
};

void readRecording(std::string_view file, size_t cut) {
  std::vector<Block> blocks, fewer;
  const size_t whole = readWholeBlocks(Exact(file).view(), blocks);
  std::string again;
  for (const Block& block : blocks) {
    CHECK_EQ(block.offset, again.size());
    char header[kBlockHeaderBytes];
    storeBig<uint16_t>(header, block.type);
    storeBig<uint16_t>(header + 2, block.flags);
    storeBig<uint32_t>(header + 4, static_cast<uint32_t>(block.data.size()));
    storeBig<uint64_t>(header + 8, block.timeMs);
    again.append(header, sizeof header).append(block.data);
  }
  CHECK_EQ(again, file.substr(0, whole));
  hasEnd(Exact(file).view());
  const size_t wholeCut = readWholeBlocks(Exact(file.substr(0, cut)).view(), fewer);
  CHECK(fewer.size() <= blocks.size());
  CHECK_EQ(wholeCut, fewer.empty() ? 0 : fewer.back().offset + kBlockHeaderBytes + fewer.back().data.size());
  const size_t next = fewer.size();
  if (next != blocks.size()) CHECK(blocks[next].offset + kBlockHeaderBytes + blocks[next].data.size() > cut);
}

void readSidecar(std::string_view sidecar) {
  std::vector<SidecarRecord> records;
  const size_t whole = test::readSidecar(Exact(sidecar).view(), records);
  if (whole == 0) {
    CHECK(records.empty());
    return;
  }
  std::string again((records.size() + 1) * kSidecarRecordBytes, '\0');
  storeSidecarHeader(again.data(), static_cast<int64_t>(loadBig<uint64_t>(sidecar.data() + 16)));
  for (size_t i = 0; i < records.size(); i++) {
    const SidecarRecord& record = records[i];
    storeSidecarRecord(again.data() + (i + 1) * kSidecarRecordBytes, record.micros, record.number, record.size,
                       record.crc);
  }
  CHECK_EQ(again, sidecar.substr(0, whole));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes input(data, size);
  const uint8_t kind = input.next() % 3;
  size_t cut = input.next();
  cut = cut << 8 | input.next();
  if (kind == 0) {
    for (const std::string& file : Script(input).run()) readRecording(file, file.empty() ? 0 : cut % file.size());
  } else if (kind == 1) {
    readRecording(input.rest(), cut);
  } else {
    readSidecar(input.rest());
  }
  return 0;
}
