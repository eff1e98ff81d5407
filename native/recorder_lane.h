// A writer and a syncer thread, and the lists by which recordings come to them.
#pragma once

#include <condition_variable>
#include <deque>
#include <thread>

#include "recorder.h"

namespace couplet {

// A thread of the recorder's. Signals are the main thread's: none may interrupt it, or run a handler on it.
std::thread startThread(const std::string& name, std::function<void()> run);

class Lane {
 public:
  Lane(Recorder& recorder, size_t number);
  // After flushAll(true): nothing is written any more.
  ~Lane();

  // On any thread. `dirty`: to be written when its oldest block is of some age; `urgent`: now.
  void pushDirty(Recording& recording);
  void pushUrgent(Recording& recording);
  // On the opener's: its files are there, or cannot be made. Takes over a reference to it.
  void pushOpened(Recording& recording);

 private:
  struct SyncOrder {
    Recording* recording;
    bool report;  // a `durable` event is wanted
    bool final;   // ... or the file is to be closed
  };
  struct SyncDue {
    Recording* recording;
    int64_t atNs;
  };
  // A block that ends within the bytes being written, and its sidecar record.
  struct WalkedBlock {
    uint64_t end;
    uint64_t micros;
    uint32_t number, size, crc;
    bool hasRecord;
  };
  enum class Sleep : uint8_t { awake, timed, idle };

  void runWriter();
  void waitForWork();
  static Recording* takeAll(std::atomic<Recording*>& list, Recording* Recording::*next);
  void collectDirty();
  void enqueueUrgent(Recording& recording);
  bool serviceUrgent();
  void service(Recording& recording, bool all);
  void refuse(Recording& recording);
  bool writeQueued(Recording& recording, bool all);
  void begin(Recording& recording);
  void walk(Recording& recording, iovec* pieces, int& count, size_t& bytes, uint64_t offset);
  int writeAll(int fd, iovec* pieces, int count, uint64_t offset, size_t& written, bool measured);
  void writeSidecar(Recording& recording, uint64_t upTo);
  void endSidecar(Recording& recording, int error);
  void fail(Recording& recording, int error);
  void discard(Recording& recording);
  void finish(Recording& recording, bool complete);
  void retire(Recording& recording, size_t bytes);
  void wake();

  void runSyncer();
  void orderSync(Recording& recording, bool report, bool final);
  void sync(const SyncOrder& order);
  int syncFile(Recording& recording);
  int64_t nowNs() const { return recorder_.clock_.monotonicNs(); }

  Recorder& recorder_;
  const Disk& disk_;

  // Recordings that were pushed: each at most once in each list, guarded by a flag of its own, kept alive by it.
  alignas(64) std::atomic<Recording*> dirty_{nullptr};
  std::atomic<Recording*> urgent_{nullptr};
  std::atomic<Sleep> sleep_{Sleep::awake};
  std::mutex mutex_;
  std::condition_variable wakeUp_;
  bool woken_ = false;  // under mutex_
  std::atomic<bool> stop_{false};
  // The writer's: dirty files by age, and scratch room.
  std::deque<Recording*> waiting_;
  std::vector<WalkedBlock> walked_;
  std::vector<char> records_;

  std::mutex syncMutex_;
  std::condition_variable syncWakeUp_;
  std::vector<SyncOrder> orders_;
  std::deque<SyncDue> due_;
  bool stopSyncer_ = false;

  std::thread writer_, syncer_;
};

}  // namespace couplet
