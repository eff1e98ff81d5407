// Recordings from append() to the file: what is in them, when, and who is told.
#include "../recorder.h"

#include "recording_files.h"

using namespace couplet;
using namespace couplet::test;
using std::string;
using Kind = RecorderEventKind;

namespace {

const string kHeader = R"({"magic":"MeshCentralRelaySession","ver":1})";

// A recording beside what should be in it.
struct Expected {
  Recording* recording;
  string name;
  std::vector<std::pair<uint16_t, string>> messages;
  string parts[2];
  bool inParts[2] = {false, false};

  void message(Random& random, size_t length) {
    const auto flags = static_cast<uint16_t>(random.below(4));
    const string data = random.bytes(length);
    CHECK(recording->append(flags, data.data(), data.size()));
    if (length != 0) messages.emplace_back(flags, data);
  }
  // Starts, goes on with or ends a message in pieces.
  void piece(Random& random, size_t length) {
    const bool user = random.below(2) == 0;
    const auto flags = static_cast<uint16_t>(user ? kBinaryData | kFromUser : 0);
    if (!inParts[user]) {
      CHECK(recording->begin(flags, random.below(2) == 0 ? 0 : random.below(100000)));
      inParts[user] = true;
      parts[user].clear();
    } else if (random.below(4) != 0) {
      const string data = random.bytes(length);
      CHECK(recording->more(flags, data.data(), data.size()));
      parts[user] += data;
    } else {
      CHECK(recording->end(flags));
      inParts[user] = false;
      if (!parts[user].empty()) messages.emplace_back(flags, parts[user]);
    }
  }
  void check(const TemporaryFolder& folder) const {
    const string file = folder.read(name);
    const std::vector<Block> blocks = readBlocks(file);
    CHECK(hasEnd(file));
    CHECK_EQ(blocks.size(), messages.size() + 2);
    CHECK(blocks[0].type == kHeaderBlock && blocks[0].flags == 0);
    CHECK_EQ(blocks[0].data, kHeader);
    for (size_t i = 0; i < messages.size(); i++) {
      CHECK_EQ(blocks[i + 1].type, 2);
      CHECK_EQ(blocks[i + 1].flags, messages[i].first);
      CHECK(blocks[i + 1].data == messages[i].second);
    }
    checkSidecar(folder.read(name + ".cpt"), blocks);
  }
};

Recording* start(Recorded& recorded, const TemporaryFolder& folder, const string& name,
                 const RecordingOptions& options = {}) {
  Recording* recording = recorded.open(folder, name, options);
  CHECK(recording->writeHeader(kHeader.data(), kHeader.size()));
  return recording;
}

// ... whose file has come to its writer before anything is appended: what was appended before is written at once.
Recording* startOpened(Recorded& recorded, const TemporaryFolder& folder, const string& name) {
  Recording* recording = recorded.open(folder, name);
  recorded.recorder.sync(recording);
  CHECK_EQ(recorded.wait(Kind::durable, recording->handle()).bytes, 0u);
  FaultyDisk::syncs = FaultyDisk::folderSyncs = 0;
  CHECK(recording->writeHeader(kHeader.data(), kHeader.size()));
  return recording;
}

int64_t wallOffset = 0;
const ClockSource steppedClock = {[] { return systemClock.realtimeNs() + wallOffset; }, systemClock.monotonicNs};

}  // namespace

TEST("[M1] [M3] [M5] [M8] [M9] random sessions are recorded: every message once, in order, with sidecars that agree") {
  Random random(seed);
  for (const uint32_t clumsiness : {0u, 3u}) {
    FaultyDisk::reset();
    FaultyDisk::clumsiness = clumsiness;
    TemporaryFolder folder;
    Recorded recorded;
    recorded.recorder.configure({.threads = 2, .flushBytes = 20000, .flushMs = 4, .fsyncMs = 8});
    std::vector<Expected> sessions;
    for (int i = 0; i < 24; i++) {
      const string name = "session-" + std::to_string(i) + ".mcrec";
      sessions.push_back({start(recorded, folder, name, {.strict = i % 2 == 0}), name, {}, {}, {}});
    }
    for (int step = 0; step < 6000; step++) {
      Expected& session = sessions[random.below(sessions.size())];
      const size_t length = random.below(20) == 0 ? random.below(60000) : random.below(300);
      if (random.below(3) == 0) {
        session.piece(random, length);
      } else {
        session.message(random, random.below(10) == 0 ? 0 : length);
      }
      if (random.below(100) == 0) recorded.recorder.sync(session.recording);
      if (random.below(500) == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    for (const Expected& session : sessions) recorded.recorder.close(session.recording);
    for (size_t i = 0; i < sessions.size(); i++) {
      const RecorderEvent event = recorded.wait(Kind::closed);
      CHECK(event.complete);
      CHECK_EQ(event.bytes, folder.size(event.file));
    }
    CHECK(recorded.take(Kind::failed) == nullptr);
    for (const Expected& session : sessions) session.check(folder);
    const Recorder::Statistics figures = recorded.recorder.statistics();
    CHECK_EQ(figures.queueBytes, 0u);
    CHECK_EQ(figures.assemblyBytes, 0u);
    CHECK_EQ(figures.openFiles, 0u);
    uint64_t bytes = 0;
    for (const Expected& session : sessions) bytes += folder.size(session.name);
    CHECK_EQ(figures.bytesWritten, bytes);
  }
}

TEST("[M2] [M6] nothing stands before the header, and there is one") {
  FaultyDisk::reset();
  TemporaryFolder folder;
  Recorded recorded;
  Recording* recording = recorded.open(folder, "a");
  CHECK(!recording->append(0, "x", 1));
  CHECK(!recording->begin(0, 0));
  CHECK(recording->writeHeader("{}", 2));
  CHECK(!recording->writeHeader("{}", 2));
  CHECK(recording->append(0, "x", 1));
  recorded.recorder.close(recording);
  CHECK(recorded.recorder.find(recording->handle()) == nullptr);
  CHECK(recorded.wait(Kind::closed).complete);
  CHECK_EQ(readBlocks(folder.read("a")).size(), 3u);
}

TEST("[R37] what is appended is in the file after flushMs and synced after fsyncMs with nothing else happening") {
  FaultyDisk::reset();
  TemporaryFolder folder;
  Recorded recorded;
  recorded.recorder.configure({.flushMs = 250, .fsyncMs = 1000});
  Recording* recording = startOpened(recorded, folder, "a");
  const size_t length = kBlockHeaderBytes + kHeader.size();
  const auto begun = std::chrono::steady_clock::now();
  const auto sinceMs = [&] {
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begun).count();
  };
  while (folder.size("a") != length) {
    CHECK(sinceMs() < 5000);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const auto written = sinceMs();
  CHECK(written >= 100);  // it was gathered for a while
  CHECK(written <= 250 + 100);
  while (FaultyDisk::syncs == 0) {
    CHECK(sinceMs() < 5000);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  CHECK(sinceMs() <= 1000 + 100);
  // ... and a sleeping recorder does nothing: the next block wakes it again.
  const uint64_t writes = FaultyDisk::writes;
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  CHECK_EQ(FaultyDisk::writes.load(), writes);
  CHECK(recording->append(0, "x", 1));
  while (folder.size("a") == length) {
    CHECK(sinceMs() < 10000);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  recorded.recorder.close(recording);
  recorded.wait(Kind::closed);
}

TEST("flushBytes of one file are written at once, not after flushMs") {
  FaultyDisk::reset();
  TemporaryFolder folder;
  Recorded recorded;
  recorded.recorder.configure({.flushBytes = 100000, .flushMs = 3600000, .fsyncMs = 3600000});
  Recording* idle = startOpened(recorded, folder, "idle");  // the writer is asleep until its time comes
  Recording* busy = start(recorded, folder, "busy");
  const string data(50000, 'x');
  for (int i = 0; i < 3; i++) CHECK(busy->append(0, data.data(), data.size()));
  while (folder.size("busy") < 100000) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK_EQ(folder.size("idle"), 0u);
  CHECK(recorded.recorder.flushAll(false, 10000));
  CHECK_EQ(folder.size("idle"), kBlockHeaderBytes + kHeader.size());
  CHECK(folder.size("busy") > 150000);
  CHECK(!hasEnd(folder.read("idle")));
  recorded.recorder.close(idle);
  recorded.recorder.close(busy);
}

TEST("what flushBytes has written ends at 64 KiB, or before a header there; the rest is in the file with flushAll") {
  FaultyDisk::reset();
  TemporaryFolder folder;
  Recorded recorded;
  recorded.recorder.configure({.flushBytes = 262144, .flushMs = 3600000, .fsyncMs = 3600000});
  size_t cut = 0;
  for (size_t length = 1; length <= 24; length++) {
    const string name = "even-" + std::to_string(length);
    Recording* recording = startOpened(recorded, folder, name);
    size_t total = kBlockHeaderBytes + kHeader.size();
    size_t messages = 0;
    for (const string data(length, 'x'); total < 700000; messages++, total += kBlockHeaderBytes + length) {
      CHECK(recording->append(0, data.data(), data.size()));
    }
    while (recorded.recorder.statistics().queueBytes >= 262144) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    const size_t missing = (65536 - folder.size(name) % 65536) % 65536;
    CHECK(missing < kBlockHeaderBytes);
    if (missing != 0) cut++;
    CHECK(folder.size(name) < total);
    CHECK(recorded.recorder.flushAll(false, 10000));
    CHECK_EQ(folder.size(name), total);
    recorded.recorder.close(recording);
    CHECK(recorded.wait(Kind::closed, recording->handle()).complete);
    const std::vector<Block> blocks = readBlocks(folder.read(name));
    CHECK_EQ(blocks.size(), messages + 2);
    checkSidecar(folder.read(name + ".cpt"), blocks);
  }
  CHECK(cut != 0);
}

TEST("[R35] durable comes after a sync of the file and of its folder, and of what was queued until then") {
  FaultyDisk::reset();
  TemporaryFolder folder;
  Recorded recorded;
  recorded.recorder.configure({.flushMs = 3600000, .fsyncMs = 3600000});
  FaultyDisk::gate(true);
  Recording* recording = start(recorded, folder, "a", {.strict = true});
  recorded.recorder.sync(recording);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  CHECK(recorded.take(Kind::durable) == nullptr);
  CHECK(FaultyDisk::syncs == 0);
  FaultyDisk::gate(false);
  const RecorderEvent event = recorded.wait(Kind::durable, recording->handle());
  CHECK_EQ(event.bytes, kBlockHeaderBytes + kHeader.size());
  CHECK_EQ(folder.size("a"), event.bytes);
  CHECK(FaultyDisk::syncs == 1);
  CHECK(FaultyDisk::folderSyncs == 1);
  CHECK(recording->append(0, "x", 1));
  recorded.recorder.sync(recording);
  CHECK_EQ(recorded.wait(Kind::durable).bytes, event.bytes + 17);
  CHECK(FaultyDisk::folderSyncs == 1);
  recorded.recorder.close(recording);
  recorded.wait(Kind::closed);
}

TEST("fault 37: the wall clock is set back while it records, and times do not follow") {
  FaultyDisk::reset();
  wallOffset = 0;
  TemporaryFolder folder;
  Recorded recorded(steppedClock);
  Recording* recording = start(recorded, folder, "a");
  for (int i = 0; i < 50; i++) {
    wallOffset -= 1'000'000'000'000;
    CHECK(recording->append(0, "x", 1));
  }
  recorded.recorder.close(recording);
  recorded.wait(Kind::closed);
  const std::vector<Block> blocks = readBlocks(folder.read("a"));
  checkSidecar(folder.read("a.cpt"), blocks);
  CHECK(blocks.back().timeMs - blocks.front().timeMs < 5000);
}

TEST("[M9] a message in pieces stands where its last byte came, and one that has none by the end is left out") {
  FaultyDisk::reset();
  TemporaryFolder folder;
  Recorded recorded;
  Recording* recording = start(recorded, folder, "a");
  const string big(300000, 'u');
  CHECK(recording->begin(kFromUser, big.size()));
  CHECK(recording->more(kFromUser, big.data(), 1000));
  CHECK(recording->append(0, "device", 6));
  CHECK(recording->begin(kBinaryData, 0));
  CHECK(recording->more(kBinaryData, "abc", 3));
  CHECK(recording->end(kBinaryData));
  std::this_thread::sleep_for(std::chrono::milliseconds(3));
  CHECK(recording->more(kFromUser, big.data(), big.size() - 1000));
  CHECK(recording->end(kFromUser));
  CHECK(!recording->more(kFromUser, "x", 1));
  CHECK(recording->begin(0, 0));
  CHECK(recording->more(0, "lost", 4));
  recorded.recorder.close(recording);
  recorded.wait(Kind::closed);
  const std::vector<Block> blocks = readBlocks(folder.read("a"));
  CHECK_EQ(blocks.size(), 5u);
  CHECK_EQ(blocks[1].data, string("device"));
  CHECK_EQ(blocks[2].data, string("abc"));
  CHECK(blocks[3].data == big);
  CHECK_EQ(blocks[3].flags, kFromUser);
  CHECK(blocks[3].timeMs >= blocks[2].timeMs + 2);
  CHECK_EQ(recorded.recorder.statistics().assemblyBytes, 0u);
}

TEST("[R33] lines of text are recorded as they are") {
  FaultyDisk::reset();
  TemporaryFolder folder;
  Recorded recorded;
  Recording* recording = recorded.open(folder, "a.jsonl", {.lines = true});
  CHECK(!recording->writeHeader("{}", 2));
  CHECK(recording->append(0, "{\"a\":1}\n", 8));
  CHECK(recording->append(0, "{\"b\":2}\n", 8));
  recorded.recorder.close(recording);
  CHECK(recorded.wait(Kind::closed).complete);
  CHECK_EQ(folder.read("a.jsonl"), string("{\"a\":1}\n{\"b\":2}\n"));
  CHECK_EQ(folder.names().size(), 1u);
}

TEST("[R36] two thousand files at once, each with a little now and then, each whole in the end") {
  FaultyDisk::reset();
  constexpr size_t count = 2000;
  rlimit files;
  CHECK(getrlimit(RLIMIT_NOFILE, &files) == 0);
  files.rlim_cur = files.rlim_max;
  CHECK(files.rlim_max >= 2 * count && setrlimit(RLIMIT_NOFILE, &files) == 0);
  TemporaryFolder folder;
  std::vector<size_t> blocks(count, 0);
  {
    Recorded recorded(systemClock, systemDisk);
    recorded.recorder.configure({.flushMs = 20, .fsyncMs = 3600000});
    std::vector<Recording*> all;
    for (size_t i = 0; i < count; i++) {
      all.push_back(start(recorded, folder, std::to_string(i), {.sidecar = i % 4 == 0}));
    }
    Random random(seed);
    for (int i = 0; i < 20000; i++) {
      const size_t which = random.below(count);
      CHECK(all[which]->append(kBinaryData, "0123456789", 1 + random.below(10)));
      blocks[which]++;
      if (i % 5000 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(15));
    }
    // Half of them are closed; the others are ended by the recorder's own end.
    for (size_t i = 0; i < count; i += 2) recorded.recorder.close(all[i]);
  }
  for (size_t i = 0; i < count; i++) {
    const string file = folder.read(std::to_string(i));
    CHECK(hasEnd(file));
    CHECK_EQ(readBlocks(file).size(), blocks[i] + 2);
  }
}
