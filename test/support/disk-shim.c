// LD_PRELOAD: a disk that is full, broken, clumsy, slow or hangs, for the files of recordings alone. What it does is
// read at each call from a file that the test writes (DISK_SHIM_CONTROL): numbers of 32 bits, in the order of
// disk-shim.ts. Descriptors are looked up anew each time, since their numbers are used again.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef FALLOC_FL_PUNCH_HOLE
#define FALLOC_FL_PUNCH_HOLE 2
#endif

struct Control {
  // Set by the test.
  _Atomic int32_t kinds;           // of files: 1 .mcrec, 2 .cpt, 4 .jsonl
  _Atomic int32_t hang;            // writes and syncs wait until it is 0 again
  _Atomic int32_t writeMs;         // delay of each write
  _Atomic int32_t full;            // a file does not grow any more, but by `room`
  _Atomic int32_t room;            // bytes
  _Atomic int32_t writeErrno;      // ... of the next `writeFailures` writes; below 0: of all
  _Atomic int32_t writeFailures;
  _Atomic int32_t syncErrno;
  _Atomic int32_t maxBytes;        // a write takes no more at once
  _Atomic int32_t interruptEvery;  // each such call fails with EINTR
  _Atomic int32_t holdReads;       // sockets are not read until so many writes and syncs have failed
  // Counted for the test.
  _Atomic int32_t writes, syncs, failed, shortened, interrupted, waiting, heldReads;
};

static struct Control none;
static struct Control* control = &none;
static _Atomic int32_t calls;
static ssize_t (*realPwritev)(int, const struct iovec*, int, off_t);
static int (*realFdatasync)(int);
static int (*realFsync)(int);
static int (*realFallocate)(int, int, off_t, off_t);
static int (*realFtruncate)(int, off_t);
static ssize_t (*realRecv)(int, void*, size_t, int);

__attribute__((constructor)) static void start(void) {
  realPwritev = dlsym(RTLD_NEXT, "pwritev64");
  realFdatasync = dlsym(RTLD_NEXT, "fdatasync");
  realFsync = dlsym(RTLD_NEXT, "fsync");
  realFallocate = dlsym(RTLD_NEXT, "fallocate64");
  realFtruncate = dlsym(RTLD_NEXT, "ftruncate64");
  realRecv = dlsym(RTLD_NEXT, "recv");
  const char* path = getenv("DISK_SHIM_CONTROL");
  const int fd = path == NULL ? -1 : open(path, O_RDWR | O_CLOEXEC);
  void* shared = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (shared == MAP_FAILED) {
    fputs("disk-shim: DISK_SHIM_CONTROL names no control file\n", stderr);
    abort();
  }
  close(fd);
  control = shared;
}

static int isOurs(int fd) {
  if (control->kinds == 0) return 0;
  char link[32], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const int before = errno;
  const ssize_t length = readlink(link, path, sizeof path - 1);
  errno = before;
  if (length <= 0) return 0;
  path[length] = 0;
  if (strstr(path, "/recordings/") == NULL) return 0;
  static const char* const suffixes[] = {".mcrec", ".cpt", ".jsonl"};
  for (int i = 0; i < 3; i++) {
    const size_t size = strlen(suffixes[i]);
    if ((size_t)length > size && strcmp(path + length - size, suffixes[i]) == 0) return control->kinds & (1 << i);
  }
  return 0;
}

static void waitForDisk(int ms) {
  control->waiting++;
  if (ms > 0) usleep((useconds_t)ms * 1000);
  while (control->hang) usleep(1000);
  control->waiting--;
}

static int isInterrupted(void) {
  const int32_t every = control->interruptEvery;
  if (every <= 0 || ++calls % every != 0) return 0;
  control->interrupted++;
  errno = EINTR;
  return 1;
}

static int fail(int error) {
  control->failed++;
  errno = error;
  return -1;
}

// Whether this write is to fail. Only one of the recorder's threads writes to a file, so this need not be exact
// between several.
static int takesFailure(void) {
  if (control->writeErrno == 0 || control->writeFailures == 0) return 0;
  if (control->writeFailures > 0) control->writeFailures--;
  return 1;
}

// How many of `wanted` bytes the disk takes; -1 with errno set: none.
static ssize_t admit(int fd, size_t wanted, off_t offset) {
  control->writes++;
  waitForDisk(control->writeMs);
  if (isInterrupted()) return -1;
  if (takesFailure()) return fail(control->writeErrno);
  size_t bytes = wanted;
  if (control->maxBytes > 0 && bytes > (size_t)control->maxBytes) bytes = (size_t)control->maxBytes;
  if (control->full) {
    struct stat now;
    const off_t size = fstat(fd, &now) == 0 ? now.st_size : 0;
    const off_t held = size > offset ? size - offset : 0;
    const off_t most = held + control->room;
    if (most == 0) return fail(ENOSPC);
    if ((off_t)bytes > most) bytes = (size_t)most;
    if ((off_t)bytes > held) control->room -= (int32_t)((off_t)bytes - held);
  }
  if (bytes < wanted) control->shortened++;
  return (ssize_t)bytes;
}

ssize_t pwritev64(int fd, const struct iovec* pieces, int count, off_t offset) {
  if (!isOurs(fd)) return realPwritev(fd, pieces, count, offset);
  size_t wanted = 0;
  for (int i = 0; i < count; i++) wanted += pieces[i].iov_len;
  const ssize_t admitted = admit(fd, wanted, offset);
  if (admitted < 0) return -1;
  struct iovec cut[IOV_MAX];
  int used = 0;
  for (size_t left = (size_t)admitted; left != 0; used++) {
    cut[used] = pieces[used];
    if (cut[used].iov_len > left) cut[used].iov_len = left;
    left -= cut[used].iov_len;
  }
  return realPwritev(fd, cut, used, offset);
}
ssize_t pwritev(int fd, const struct iovec* pieces, int count, off_t offset) {
  return pwritev64(fd, pieces, count, offset);
}

ssize_t pwrite64(int fd, const void* data, size_t size, off_t offset) {
  const struct iovec piece = {(void*)data, size};
  return pwritev64(fd, &piece, 1, offset);
}
ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) { return pwrite64(fd, data, size, offset); }

static int synced(int fd, int (*real)(int)) {
  if (!isOurs(fd)) return real(fd);
  control->syncs++;
  waitForDisk(0);
  if (isInterrupted()) return -1;
  if (control->syncErrno != 0) return fail(control->syncErrno);
  return real(fd);
}
int fdatasync(int fd) { return synced(fd, realFdatasync); }
int fsync(int fd) { return synced(fd, realFsync); }

// Room that is given back on a full disk is there for whoever writes next.
int fallocate64(int fd, int mode, off_t offset, off_t length) {
  const int ours = isOurs(fd);
  if (ours && isInterrupted()) return -1;
  if (ours && control->full) {
    if (mode & FALLOC_FL_PUNCH_HOLE) control->room += (int32_t)length;
    else if (control->room < length) return fail(ENOSPC);
    else control->room -= (int32_t)length;
  }
  return realFallocate(fd, mode, offset, length);
}
int fallocate(int fd, int mode, off_t offset, off_t length) { return fallocate64(fd, mode, offset, length); }

int ftruncate64(int fd, off_t length) {
  if (isOurs(fd) && isInterrupted()) return -1;
  return realFtruncate(fd, length);
}
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

// The event loop stands still between being told that there is something to read and reading it: what it hears of next
// is that read, whatever the disk's threads do meanwhile.
static int holdsReads(void) { return control->failed < control->holdReads; }
ssize_t recv(int fd, void* data, size_t length, int flags) {
  if (holdsReads()) {
    control->heldReads++;
    while (holdsReads()) usleep(1000);
  }
  return realRecv(fd, data, length, flags);
}
