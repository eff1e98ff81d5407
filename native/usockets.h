// The µSockets functions that the loaded uWebSockets.js library exports, and the handlers put on its contexts.
// Nothing here assumes a struct layout: functions are found by name, old handlers by comparing a context's memory
// before and after its public setter ran.
#pragma once

#include <cstddef>
#include <string>

struct us_socket_t;
struct us_socket_context_t;
struct us_loop_t;
struct us_poll_t;

namespace couplet {

typedef us_socket_t* (*DataHandler)(us_socket_t*, char*, int);
typedef us_socket_t* (*SocketHandler)(us_socket_t*);
typedef us_socket_t* (*CloseHandler)(us_socket_t*, int, void*);
typedef us_socket_t* (*OpenHandler)(us_socket_t*, int isClient, char* ip, int ipLength);
typedef us_socket_t* (*ConnectErrorHandler)(us_socket_t*, int code);

// At least as large as us_socket_context_options_t, which goes by value and is not looked at for a plain context: the
// callee of either calling convention finds its beginning where this one's is.
struct ContextOptions {
  const void* words[16] = {};
};

// Length of one µSockets read (LIBUS_RECV_BUFFER_LENGTH): a read that long may be followed by another at once.
constexpr int kReadBufferBytes = 524288;

constexpr int kReadable = 1;  // UV_READABLE: uWebSockets.js runs on libuv
constexpr int kWritable = 2;  // UV_WRITABLE

struct USockets {
  us_socket_context_t* (*context)(int ssl, us_socket_t*);
  us_loop_t* (*contextLoop)(int ssl, us_socket_context_t*);
  int (*pollEvents)(us_poll_t*);
  void (*pollChange)(us_poll_t*, us_loop_t*, int events);
  int (*pollFd)(us_poll_t*);
  int (*write)(int ssl, us_socket_t*, const char*, int length, int msgMore);
  int (*isClosed)(int ssl, us_socket_t*);
  void (*shutdown)(int ssl, us_socket_t*);
  us_socket_t* (*close)(int ssl, us_socket_t*, int code, void* reason);
  void (*onData)(int ssl, us_socket_context_t*, DataHandler);
  void (*onWritable)(int ssl, us_socket_context_t*, SocketHandler);
  void (*onEnd)(int ssl, us_socket_context_t*, SocketHandler);
  void (*onClose)(int ssl, us_socket_context_t*, CloseHandler);
  // Null where the library does not export them.
  us_socket_context_t* (*createContext)(int ssl, us_loop_t*, int extBytes, ContextOptions);
  us_socket_t* (*adoptAccepted)(int ssl, us_socket_context_t*, int fd, unsigned extBytes, char* ip, int ipLength);
  void (*onOpen)(int ssl, us_socket_context_t*, OpenHandler);
  void (*onTimeout)(int ssl, us_socket_context_t*, SocketHandler);
  void (*onLongTimeout)(int ssl, us_socket_context_t*, SocketHandler);
  void (*onConnectError)(int ssl, us_socket_context_t*, ConnectErrorHandler);
};

// The resolved functions; valid after loadUSockets() returned an empty string.
extern USockets us;

// Finds the loaded uWebSockets.js binary among the process's mapped objects and resolves the functions.
// Returns an empty string, or the reason why native forwarding cannot work here.
std::string loadUSockets();

// What a context's handlers were before ours. `base*` are the ones the event loop calls: on a TLS context the TLS
// layer's own, on a plain one the same as without `base`.
struct ContextHooks {
  us_socket_context_t* context = nullptr;
  us_loop_t* loop = nullptr;
  bool ssl = false;
  DataHandler data = nullptr;
  DataHandler baseData = nullptr;
  SocketHandler writable = nullptr;
  SocketHandler baseEnd = nullptr;
  CloseHandler close = nullptr;
};

// Our own handlers, by whether the context is a TLS one.
struct Handlers {
  DataHandler data;
  DataHandler baseData;
  SocketHandler writable;
  SocketHandler baseEnd;
  CloseHandler close;
};

// Puts `handlers` on the context of `socket` where they are not there yet; nullptr when an old handler could not be
// told (then nothing was changed for good). The result lives as long as the process.
ContextHooks* hookContext(us_socket_t* socket, bool ssl, const Handlers& handlers);

// A plain context of this addon's own, with `handlers` on it and nothing behind them. nullptr where the library does not
// export what that takes, or no socket was ever held, by which the event loop is known. The result lives as long as the
// process.
ContextHooks* makeContext(const Handlers& handlers);

// The hooks of a context that hookContext() or makeContext() has treated; nullptr for any other.
ContextHooks* hooksOf(us_socket_context_t* context);

}  // namespace couplet
