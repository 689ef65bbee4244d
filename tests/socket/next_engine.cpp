// An engine whose maps have the next layout, as a program: what a live one is upgraded to. Opens, attaches, and leaves
// everything in force, as a daemon that is killed does.
#include <cstdio>
#include <sockops/engine.hpp>

int main(int argc, char** argv) {
  static_assert(SH_LAYOUT_VERSION != 1);
  if (argc != 5) {
    fprintf(stderr, "usage: next-engine BPFFS PIN-DIR CGROUP-ROOT CGROUP\n");
    return 2;
  }
  shunt::Settings settings;
  settings.any_program = true;
  settings.profile = false;
  settings.selection.cgroups.include = {argv[4]};
  const shunt::Paths paths{.bpffs = argv[1], .pin_dir = argv[2], .cgroup_root = argv[3]};
  auto engine = shunt::Engine::open(paths, shunt::probe_kernel(), settings);
  if (!engine) {
    fprintf(stderr, "open: %s\n", engine.error().to_string().c_str());
    return 1;
  }
  for (auto done : {(*engine)->attach(), (*engine)->guard(argv[4])}) {
    if (done) continue;
    fprintf(stderr, "attach: %s\n", done.error().to_string().c_str());
    return 1;
  }
  return 0;
}
