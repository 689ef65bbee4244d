#include <algorithm>
#include <policy/model.hpp>

namespace shunt::policy {

bool Selector::matches(const Labels& labels) const {
  return std::all_of(requirements.begin(), requirements.end(), [&](const Requirement& requirement) {
    const auto label = labels.find(requirement.key);
    const bool listed = label != labels.end() &&
                        std::binary_search(requirement.values.begin(), requirement.values.end(), label->second);
    switch (requirement.op) {
      case Requirement::Operator::in:
        return listed;
      case Requirement::Operator::not_in:
        return !listed;
      case Requirement::Operator::exists:
        return label != labels.end();
      case Requirement::Operator::does_not_exist:
        return label == labels.end();
    }
    return false;
  });
}

bool is_v4(const Cidr& cidr) { return cidr.prefix_bits >= 96 && is_v4_mapped(cidr.addr); }

bool contains(const Cidr& outer, const Cidr& inner) {
  if (is_v4(outer) != is_v4(inner) || outer.prefix_bits > inner.prefix_bits) return false;
  for (unsigned bit = 0; bit < outer.prefix_bits; bit++) {
    if (((outer.addr[bit / 8] ^ inner.addr[bit / 8]) & (0x80u >> (bit % 8))) != 0) return false;
  }
  return true;
}

std::string format_cidr(const Cidr& cidr) {
  return format_address(cidr.addr) + "/" + std::to_string(is_v4(cidr) ? cidr.prefix_bits - 96 : cidr.prefix_bits);
}

const char* protocol_name(Protocol protocol) {
  switch (protocol) {
    case Protocol::http:
      return "http";
    case Protocol::resp:
      return "resp";
    case Protocol::tcp:
      break;
  }
  return "tcp";
}

const Workload* Model::workload(const std::string& name_space, const std::string& name) const {
  const auto found = std::find_if(workloads.begin(), workloads.end(), [&](const Workload& workload) {
    return workload.name_space == name_space && workload.name == name;
  });
  return found == workloads.end() ? nullptr : &*found;
}

const Service* Model::service(const std::string& name_space, const std::string& name) const {
  const auto found = std::find_if(services.begin(), services.end(), [&](const Service& service) {
    return service.name_space == name_space && service.name == name;
  });
  return found == services.end() ? nullptr : &*found;
}

}  // namespace shunt::policy
