#include <l7parsers/core/http1.h>

#include <algorithm>
#include <bit>
#include <numeric>
#include <policy/automaton_table.hpp>
#include <unordered_map>

namespace shunt::policy {
namespace {

// The rows of a minimized automaton, before its classes are merged.
struct Rows {
  uint32_t wide;  // cells of a row
  std::vector<sh_u16> cells;

  Rows(const Minimized& minimized, const Classes& classes)
      : wide(classes.count() + SH_POLICY_SYMBOLS), cells(size_t{minimized.states} * wide, 0) {
    for (const Transition& t : minimized.transitions)
      cells[size_t{t.from} * wide + t.label] = static_cast<sh_u16>(t.to);
  }
  const sh_u16* row(uint32_t state) const { return &cells[size_t{state} * wide]; }
};

// One column for all classes that lead to the same everywhere: a class for each column, and the column of each class.
struct Columns {
  std::vector<uint32_t> classes;
  std::vector<uint32_t> of;

  explicit Columns(const Classes& all) : classes(all.count()), of(all.count()) {
    std::iota(classes.begin(), classes.end(), 0);
    of = classes;
  }

  Columns(const Minimized& minimized, const Classes& all, const Rows& rows) : of(all.count()) {
    std::vector<uint64_t> hashes(all.count(), 0);
    for (const Transition& t : minimized.transitions) {
      if (t.label < all.count()) {
        hashes[t.label] += (uint64_t{t.from} * 0x9e3779b97f4a7c15ULL ^ t.to) * 0xff51afd7ed558ccdULL;
      }
    }
    std::unordered_map<uint64_t, std::vector<uint32_t>> by_hash;
    for (uint32_t label = 0; label < all.count(); label++) {
      const auto same = [&](uint32_t column) {
        for (uint32_t s = 0; s < minimized.states; s++) {
          if (rows.row(s)[classes[column]] != rows.row(s)[label]) return false;
        }
        return true;
      };
      std::vector<uint32_t>& alike = by_hash[hashes[label]];
      const auto found = std::find_if(alike.begin(), alike.end(), same);
      of[label] = found != alike.end() ? *found : static_cast<uint32_t>(classes.size());
      if (found != alike.end()) continue;
      alike.push_back(of[label]);
      classes.push_back(label);
    }
  }
};

// New numbers for the states: those that no printable byte leads out of come first, state 0 at their head. To be there
// with all bytes would be too much to ask: a dot does not match a line's end.
struct Order {
  std::vector<sh_u16> number;
  uint32_t first_open = 0;

  Order(const Minimized& minimized, const Classes& classes, const Rows& rows, uint32_t spare)
      : number(minimized.states) {
    const std::vector<uint8_t> labels = printable_classes(classes);
    std::vector<bool> closed(minimized.states);
    for (uint32_t s = 0; s < minimized.states; s++) {
      closed[s] = std::all_of(labels.begin(), labels.end(), [&](uint8_t label) { return rows.row(s)[label] == s; });
      if (closed[s]) number[s] = static_cast<sh_u16>(first_open++);
    }
    first_open += spare;
    uint32_t next = first_open;
    for (uint32_t s = 0; s < minimized.states; s++) {
      if (!closed[s]) number[s] = static_cast<sh_u16>(next++);
    }
  }
};

}  // namespace

std::vector<uint8_t> printable_classes(const Classes& classes) {
  ByteSet bytes;
  for (unsigned c = 0x20; c < 0x7f; c++) bytes.set(c);
  return classes.in_any(bytes);
}

std::vector<sh_u16> write_cells(const Minimized& minimized, const Classes& classes, uint32_t start,
                                uint32_t start_header, const TableLayout& layout, Automaton& automaton) {
  const Rows rows(minimized, classes);
  const Columns columns = layout.for_changes ? Columns(classes) : Columns(minimized, classes, rows);
  const Order order(minimized, classes, rows, layout.spare_rows);
  sh_policy_set& set = automaton.set;
  set.classes = static_cast<sh_u16>(columns.classes.size());
  set.row_shift = static_cast<sh_u16>(std::bit_width(columns.classes.size() + SH_POLICY_SYMBOLS - 1));
  for (unsigned c = 0; c < 256; c++) set.class_of[c] = static_cast<sh_u8>(columns.of[classes.of(c)]);
  set.cells = (minimized.states + layout.spare_rows) << set.row_shift;
  automaton.blocks.assign((set.cells + SH_POLICY_BLOCK_CELLS - 1) / SH_POLICY_BLOCK_CELLS, {});
  for (uint32_t s = 0; s < minimized.states; s++) {
    const sh_u16* from = rows.row(s);
    // A row does not cross a border between blocks: its length is a power of two.
    const size_t first = size_t{order.number[s]} << set.row_shift;
    sh_u16* row = &automaton.blocks[first / SH_POLICY_BLOCK_CELLS].cells[first % SH_POLICY_BLOCK_CELLS];
    for (uint32_t column = 0; column < set.classes; column++) row[column] = order.number[from[columns.classes[column]]];
    for (uint32_t symbol = 0; symbol < SH_POLICY_END; symbol++) {
      row[set.classes + symbol] = order.number[from[classes.count() + symbol]];
    }
    row[set.classes + SH_POLICY_END] = static_cast<sh_u16>(minimized.results[s]);
  }
  set.first_open = static_cast<sh_u16>(order.first_open);
  set.start_request = order.number[minimized.state_of[start]];
  set.start_header = start_header == UINT32_MAX ? sh_u16{0} : order.number[minimized.state_of[start_header]];
  return order.number;
}

void write_methods(Automaton& automaton) {
  sh_policy_set& set = automaton.set;
  const auto next = [&](sh_u16 state, uint32_t column) {
    return automaton.cell((size_t{state} << set.row_shift) + column);
  };
  const std::string_view methods[] = {"",
#define SH_METHOD_NAME(id, packed, body) #id,
                                      L7_HTTP1_METHODS(SH_METHOD_NAME)
#undef SH_METHOD_NAME
  };
  static_assert(std::size(methods) == L7_M_COUNT && L7_M_COUNT <= SH_POLICY_METHODS);
  for (size_t i = 1; i < std::size(methods); i++) {
    sh_u16 state = set.start_request;
    for (const char c : methods[i]) state = next(state, set.class_of[static_cast<unsigned char>(c)]);
    set.after_method[i] = next(state, set.classes + SH_POLICY_SEP);
  }
}

}  // namespace shunt::policy
