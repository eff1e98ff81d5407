// On platforms where uWebSockets.js cannot be reached natively the addon says so; the portable path serves.
#include <napi.h>

static Napi::Value Load(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), "native forwarding is built for Linux only");
}

static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  exports.Set("load", Napi::Function::New(env, Load));
  return exports;
}

NODE_API_MODULE(couplet, Init)
