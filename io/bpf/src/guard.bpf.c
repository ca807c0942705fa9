// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// The guards of routed pods as programs: the same checks as the rules of table inet in core/host/src/guards.rs, which
// says why each is made. `tartan_pod` sees what comes in by a pod's link, the other two what is for this node.

#include "kernel.h"

char LICENSE[] SEC("license") = "GPL";

enum { TCP = 6, UDP = 17, ICMP = 1, ICMPV6 = 58 };

// As numbered in keys.rs.
enum reason { MAC, IPV4, IPV6, ND, RA, REDIRECT, DHCP, TUNNEL, CONTROL, OTHER };

struct address {
	__u32 family; // ETH_P_IP or ETH_P_IPV6, as in the frame
	__u32 words[4];
};

struct frame {
	__u32 link;
	__u8 mac[6];
	__u16 zero;
};

struct source {
	struct frame frame;
	struct address address;
};

struct vni {
	__u16 port;
	__u16 zero;
	__u8 vni[4];
};

struct denial {
	char link[16];
	__u64 reason;
};

struct count {
	__u64 packets;
	__u64 bytes;
	__u64 last; // nanoseconds since the start of the machine
};

#define set(name, of, most)                                                                        \
	struct {                                                                                   \
		number(type, BPF_MAP_TYPE_HASH);                                                   \
		number(map_flags, BPF_F_NO_PREALLOC);                                              \
		number(max_entries, most);                                                         \
		typed(key, of);                                                                    \
		typed(value, __u8);                                                                \
	} name SEC(".maps")

set(frames, struct frame, 65536);
set(sources, struct source, 262144);
set(nodes, struct address, 262144);
set(vnis, struct vni, 65536);

// One source of each family that a link has, by the last bits of the link's index: nearly all packets are from there, and
// no key is hashed for them. The others, and those of a link whose place another has, are in `sources` alone. The agent does
// not write it in one step: for a moment part of an address is zero, which is nobody else's.
struct usual {
	__u32 link;
	__u8 mac[6];
	__u16 families; // which of the addresses are there
	__u32 ipv4;
	struct in6_addr ipv6;
};

_Static_assert(sizeof(struct usual) == 32, "as in keys.rs");

enum { WITH_IPV4 = 1, WITH_IPV6 = 2, USUALS = 65536 };

struct {
	number(type, BPF_MAP_TYPE_ARRAY);
	number(max_entries, USUALS);
	typed(key, __u32);
	typed(value, struct usual);
} usuals SEC(".maps");

// Nodes by the last bits of their addresses, for the same reason. One whose place another has is in `nodes` alone. A place goes
// from one to another by way of zero, so that for a moment all that may stand there wrongly is a node's address with zeros in it.
enum { USUAL_NODES = 4096 };

struct {
	number(type, BPF_MAP_TYPE_ARRAY);
	number(max_entries, USUAL_NODES);
	typed(key, __u32);
	typed(value, struct address);
} usual_nodes SEC(".maps");

struct {
	number(type, BPF_MAP_TYPE_HASH);
	number(map_flags, BPF_F_NO_PREALLOC);
	number(max_entries, 65536);
	typed(key, struct denial);
	typed(value, struct count);
} denied SEC(".maps");

// What a port is, of TCP and of UDP: a tunnel's, or one that the nodes keep for themselves.
enum { A_TUNNEL = 1, OF_NODES = 2 };
__u8 ports[2][65536] SEC(".data.ports") = { { 0 } };

// What lies above IP.
struct layer {
	__u32 at; // where it begins
	__u8 protocol;
	__u8 fragment; // it is not the first one: nothing of the header is there
	__u16 source; // the port, or type and code
	__u16 destination;
};

inlined void count(const struct net_device *link, __u64 reason, __u32 bytes)
{
	struct denial key = { .reason = reason };
	bpf_probe_read_kernel_str(key.link, sizeof(key.link), link->name);
	struct count *counted = bpf_map_lookup_elem(&denied, &key);
	if (!counted) {
		struct count none = {};
		bpf_map_update_elem(&denied, &key, &none, BPF_NOEXIST);
		counted = bpf_map_lookup_elem(&denied, &key);
	}
	if (counted) {
		__sync_fetch_and_add(&counted->packets, 1);
		__sync_fetch_and_add(&counted->bytes, bytes);
		counted->last = bpf_ktime_get_boot_ns();
	}
}

// Goes behind the extension headers of IPv6 (RFC 8200, section 4.1); false where they cannot be read, or are too many.
inlined int skip_extensions(const struct bpf_dynptr *packet, struct layer *layer)
{
	enum { HOP_BY_HOP = 0, ROUTING = 43, FRAGMENT = 44, AUTHENTICATION = 51, DESTINATION = 60 };
	for (int i = 0; i <= 8; i++) {
		struct {
			__u8 next;
			__u8 length;
			__u16 offset;
		} header;
		__u8 this = layer->protocol;
		if (this != HOP_BY_HOP && this != ROUTING && this != FRAGMENT && this != AUTHENTICATION &&
		    this != DESTINATION)
			return 1;
		if (bpf_dynptr_read(&header, sizeof(header), packet, layer->at, 0))
			return 0;
		layer->protocol = header.next;
		if (this == FRAGMENT && (header.offset & be16(0xfff8))) {
			layer->fragment = 1;
			return 1;
		}
		if (this == FRAGMENT)
			layer->at += 8;
		else if (this == AUTHENTICATION)
			layer->at += (header.length + 2) * 4;
		else
			layer->at += (header.length + 1) * 8;
	}
	return 0;
}

inlined int has_ports(const struct layer *layer)
{
	return !layer->fragment && (layer->protocol == TCP || layer->protocol == UDP ||
				    layer->protocol == ICMP || layer->protocol == ICMPV6);
}

// The first four bytes of the header, where it has some that are asked for; false where they are missing.
inlined int read_ports(const struct bpf_dynptr *packet, struct layer *layer)
{
	return !has_ports(layer) || !bpf_dynptr_read(&layer->source, 4, packet, layer->at, 0);
}

inlined void over_ipv4(const struct iphdr *ip, __u32 at, struct layer *layer)
{
	layer->protocol = ip->protocol;
	layer->fragment = (ip->frag_off & be16(0x1fff)) != 0;
	layer->at = at + (ip->version_ihl & 15) * 4;
}

inlined __u8 port_is(const struct layer *layer)
{
	if (layer->fragment || (layer->protocol != TCP && layer->protocol != UDP))
		return 0;
	return ports[layer->protocol == UDP][be16(layer->destination)];
}

// The first bytes of a frame where they can be read at once, and where the ones that can be end; NULL if it is shorter.
inlined void *head(struct __sk_buff *skb, __u32 length, void **end)
{
	for (int i = 0; i < 2; i++) {
		void *data = (void *)(long)skb->data;
		*end = (void *)(long)skb->data_end;
		// The verifier wants both as they were read.
		asm volatile("" : "+r"(data), "+r"(*end));
		if (likely(data + length <= *end))
			return data;
		if (i == 0 && bpf_skb_pull_data(skb, length))
			return NULL;
	}
	return NULL;
}

// Frames of a bridge's port are judged by the rules of table bridge, but for those to the bridge's own group, which pass
// none of its hooks and go up as if they had come by no bridge (net/bridge/br_input.c, `br_handle_frame`).
inlined int is_bridged(struct __sk_buff *skb, const struct net_device *link)
{
	void *end;
	if (!link->rx_handler)
		return 0;
	if (skb->protocol != be16(ETH_P_IP) && skb->protocol != be16(ETH_P_IPV6))
		return 1;
	struct ethhdr *eth = head(skb, sizeof(*eth), &end);
	if (!eth)
		return 0;
	// 01:80:c2:00:00:0x
	const __u8 *to = eth->h_dest;
	return to[0] != 0x01 || to[1] != 0x80 || to[2] != 0xc2 || to[3] || to[4] || to[5] & 0xf0;
}

inlined struct net_device *link_of(struct __sk_buff *skb)
{
	struct sk_buff *frame = bpf_cast_to_kern_ctx(skb);
	return frame->dev;
}

apart int refuse(struct __sk_buff *skb, __u64 reason)
{
	struct net_device *link = link_of(skb);
	if (is_bridged(skb, link))
		return TC_ACT_UNSPEC;
	count(link, reason, skb->len);
	return TC_ACT_SHOT;
}

// Whether the target of neighbor discovery is an address of the pod that asks or tells (RFC 4861, section 4.3 and 4.4).
inlined int is_own_target(const struct bpf_dynptr *packet, const struct layer *layer, const struct source *from)
{
	struct source claimed = *from;
	if (bpf_dynptr_read(claimed.address.words, 16, packet, layer->at + 8, 0))
		return 0;
	return bpf_map_lookup_elem(&sources, &claimed) != NULL;
}

inlined __u8 icmp_type(const struct layer *layer)
{
	return *(const __u8 *)&layer->source;
}

// Packets from `::`, sent before the pod has an address that it may use.
inlined int is_nobody(struct __sk_buff *skb, const struct source *from, const struct layer *layer)
{
	const __u32 *words = from->address.words;
	if (layer->fragment || layer->protocol != ICMPV6 || words[0] | words[1] | words[2] | words[3])
		return 0;
	__u8 type = icmp_type(layer);
	struct bpf_dynptr packet;
	if (type == 143 || type == 131 || type == 132 || type == 133)
		return 1;
	return type == 135 && !bpf_dynptr_from_skb(skb, 0, &packet) && is_own_target(&packet, layer, from);
}

apart int stranger(struct __sk_buff *skb, const struct source *from, const struct layer *layer)
{
	if (is_bridged(skb, link_of(skb)))
		return TC_ACT_UNSPEC;
	if (!bpf_map_lookup_elem(&frames, &from->frame))
		return refuse(skb, MAC);
	if (from->address.family == be16(ETH_P_IP))
		return refuse(skb, IPV4);
	return is_nobody(skb, from, layer) ? TC_ACT_UNSPEC : refuse(skb, IPV6);
}

apart int discovery(struct __sk_buff *skb, const struct source *from, const struct layer *layer)
{
	struct bpf_dynptr packet;
	switch (icmp_type(layer)) {
	case 134:
		return refuse(skb, RA);
	case 136:
		if (bpf_dynptr_from_skb(skb, 0, &packet) || !is_own_target(&packet, layer, from))
			return refuse(skb, ND);
		break;
	case 137:
		return refuse(skb, REDIRECT);
	}
	return TC_ACT_UNSPEC;
}

// Where a node has its place among the usual ones. The families are apart: dual-stack nodes are often numbered alike.
inlined const struct address *usual_node(__u32 words, __u32 family)
{
	__u32 place = (be32(words) + family) % USUAL_NODES;
	return bpf_map_lookup_elem(&usual_nodes, &place);
}

inlined int is_usual_ipv4(__u32 of)
{
	const struct address *node = usual_node(of, be16(ETH_P_IP));
	return node && node->family == be16(ETH_P_IP) && node->words[0] == of;
}

inlined int is_same(const __u32 *one, const __u32 *other)
{
	return one[0] == other[0] && one[1] == other[1] && one[2] == other[2] && one[3] == other[3];
}

inlined int is_usual_ipv6(const __u32 *of)
{
	const struct address *node = usual_node(of[0] + of[1] + of[2] + of[3], be16(ETH_P_IPV6));
	return node && node->family == be16(ETH_P_IPV6) && is_same(node->words, of);
}

inlined int is_node(const struct address *of)
{
	return bpf_map_lookup_elem(&nodes, of) != NULL;
}

// Packets to a port that is something, which nodes keep from pods.
apart int to_kept_port(struct __sk_buff *skb, __u64 reason)
{
	struct address to = { .family = (__u16)skb->protocol };
	struct bpf_dynptr packet;
	int ipv4 = to.family == be16(ETH_P_IP);
	__u32 at = sizeof(struct ethhdr);
	at += ipv4 ? offset(struct iphdr, daddr) : offset(struct ipv6hdr, daddr);
	if (bpf_dynptr_from_skb(skb, 0, &packet) || bpf_dynptr_read(to.words, ipv4 ? 4 : 16, &packet, at, 0))
		return refuse(skb, OTHER);
	return is_node(&to) ? refuse(skb, reason) : TC_ACT_UNSPEC;
}

// What comes by a pod's link, whatever it is.
apart int judge(struct __sk_buff *skb)
{
	struct source from = { .frame.link = skb->ifindex };
	struct layer layer = {};
	struct bpf_dynptr packet;
	void *end;
	__u16 family = skb->protocol;
	from.address.family = family;
	if (skb->vlan_present && skb->vlan_tci & 0xfff)
		return refuse(skb, OTHER);
	if (family == be16(ETH_P_IP)) {
		struct ethhdr *eth = head(skb, sizeof(*eth) + sizeof(struct iphdr), &end);
		if (!eth)
			return refuse(skb, OTHER);
		struct iphdr *ip = (void *)(eth + 1);
		__builtin_memcpy(from.frame.mac, eth->h_source, 6);
		from.address.words[0] = ip->saddr;
		over_ipv4(ip, sizeof(*eth), &layer);
	} else if (family == be16(ETH_P_IPV6)) {
		struct ethhdr *eth = head(skb, sizeof(*eth) + sizeof(struct ipv6hdr), &end);
		if (!eth)
			return refuse(skb, OTHER);
		struct ipv6hdr *ip = (void *)(eth + 1);
		__builtin_memcpy(from.frame.mac, eth->h_source, 6);
		__builtin_memcpy(from.address.words, ip->saddr.words, 16);
		layer.protocol = ip->nexthdr;
		layer.at = sizeof(*eth) + sizeof(*ip);
	} else {
		// ARP is judged by the rules of table arp, by what it says.
		return family == be16(ETH_P_ARP) ? TC_ACT_UNSPEC : refuse(skb, OTHER);
	}
	if (bpf_dynptr_from_skb(skb, 0, &packet))
		return refuse(skb, OTHER);
	if (family == be16(ETH_P_IPV6) && !skip_extensions(&packet, &layer))
		return refuse(skb, OTHER);
	if (!read_ports(&packet, &layer))
		return refuse(skb, OTHER);
	if (!bpf_map_lookup_elem(&sources, &from))
		return stranger(skb, &from, &layer);
	if (layer.fragment)
		return TC_ACT_UNSPEC;
	if (layer.protocol == UDP) {
		__u16 server = family == be16(ETH_P_IP) ? be16(67) : be16(547);
		__u16 client = family == be16(ETH_P_IP) ? be16(68) : be16(546);
		if (layer.source == server || layer.destination == client)
			return refuse(skb, DHCP);
	} else if (layer.protocol == ICMP && family == be16(ETH_P_IP)) {
		return icmp_type(&layer) == 5 ? refuse(skb, REDIRECT) : TC_ACT_UNSPEC;
	} else if (layer.protocol == ICMPV6 && family == be16(ETH_P_IPV6)) {
		return discovery(skb, &from, &layer);
	}
	__u8 port = port_is(&layer);
	return port ? to_kept_port(skb, port & A_TUNNEL ? TUNNEL : CONTROL) : TC_ACT_UNSPEC;
}

// Whether these ports are nothing that anybody keeps from pods, of a protocol that has ports.
inlined int is_common(__u8 protocol, const __u16 *port, __u16 server, __u16 client)
{
	if (protocol == TCP)
		return !ports[0][be16(port[1])];
	return protocol == UDP && port[0] != server && port[1] != client && !ports[1][be16(port[1])];
}

inlined int is_usual_mac(const struct usual *usual, const __u8 *mac)
{
	return *(const __u32 *)usual->mac == *(const __u32 *)mac &&
	       *(const __u16 *)(usual->mac + 4) == *(const __u16 *)(mac + 4);
}

inlined int is_common_ipv4(const struct usual *usual, const struct ethhdr *eth, const void *end)
{
	const struct iphdr *ip = (const void *)(eth + 1);
	const __u16 *port = (const void *)(ip + 1);
	return (const void *)(port + 2) <= end && usual->families & WITH_IPV4 && usual->ipv4 == ip->saddr &&
	       is_usual_mac(usual, eth->h_source) && ip->version_ihl == 0x45 &&
	       !(ip->frag_off & be16(0x1fff)) && is_common(ip->protocol, port, be16(67), be16(68));
}

inlined int is_common_ipv6(const struct usual *usual, const struct ethhdr *eth, const void *end)
{
	const struct ipv6hdr *ip = (const void *)(eth + 1);
	const __u16 *port = (const void *)(ip + 1);
	return (const void *)(port + 2) <= end && usual->families & WITH_IPV6 &&
	       is_same(usual->ipv6.words, ip->saddr.words) && is_usual_mac(usual, eth->h_source) &&
	       is_common(ip->nexthdr, port, be16(547), be16(546));
}

// Nearly all packets are TCP or UDP from the usual source: these are let through without a look at anything else.
SEC("tc") int tartan_pod(struct __sk_buff *skb)
{
	__u32 place = skb->ifindex % USUALS;
	const struct usual *usual = bpf_map_lookup_elem(&usuals, &place);
	const struct ethhdr *eth = (const void *)(long)skb->data;
	const void *end = (const void *)(long)skb->data_end;
	if (!usual || usual->link != skb->ifindex || skb->vlan_present)
		return judge(skb);
	if (skb->protocol == be16(ETH_P_IP) && likely(is_common_ipv4(usual, eth, end)))
		return TC_ACT_UNSPEC;
	if (skb->protocol == be16(ETH_P_IPV6) && likely(is_common_ipv6(usual, eth, end)))
		return TC_ACT_UNSPEC;
	return judge(skb);
}

inlined int refuse_to_node(struct bpf_nf_ctx *ctx, __u64 reason)
{
	count(ctx->state->in, reason, ctx->skb->len);
	return NF_DROP;
}

// What comes from no node: by a pod's link or a tunnel, or by another link of the node's.
inlined int from_no_node(struct bpf_nf_ctx *ctx, const struct bpf_dynptr *packet, const struct layer *layer)
{
	const struct net_device *in = ctx->state->in;
	__u8 port = port_is(layer);
	int of_ours = in->name[0] == 't' &&
		      (in->name[1] == 't' || (in->name[1] == 'a' && in->name[2] == 'r' && in->name[3] == 't'));
	if (of_ours && port)
		return refuse_to_node(ctx, port & A_TUNNEL ? TUNNEL : CONTROL);
	if (of_ours || layer->fragment)
		return NF_ACCEPT;
	if (layer->protocol == UDP) {
		struct vni key = { .port = layer->destination };
		// Behind the header of UDP and four bytes of VXLAN's (RFC 7348, section 5).
		if (!bpf_dynptr_read(key.vni, 4, packet, layer->at + 12, 0)) {
			key.vni[3] = 0;
			return bpf_map_lookup_elem(&vnis, &key) ? refuse_to_node(ctx, TUNNEL) : NF_ACCEPT;
		}
	}
	return port & A_TUNNEL ? refuse_to_node(ctx, TUNNEL) : NF_ACCEPT;
}

apart int judge_ipv4(struct bpf_nf_ctx *ctx, const struct iphdr *ip)
{
	struct address from = { .family = be16(ETH_P_IP), .words = { ip->saddr } };
	if (is_node(&from))
		return NF_ACCEPT;
	struct bpf_dynptr packet;
	struct layer layer = {};
	over_ipv4(ip, 0, &layer);
	if (bpf_dynptr_from_skb((struct __sk_buff *)ctx->skb, 0, &packet) || !read_ports(&packet, &layer))
		return NF_ACCEPT;
	return from_no_node(ctx, &packet, &layer);
}

SEC("netfilter") int node_ipv4(struct bpf_nf_ctx *ctx)
{
	struct sk_buff *skb = ctx->skb;
	const struct iphdr *ip =
		bpf_rdonly_cast(skb->head + skb->network_header, kernel_type(struct iphdr));
	return likely(is_usual_ipv4(ip->saddr)) ? NF_ACCEPT : judge_ipv4(ctx, ip);
}

apart int judge_ipv6(struct bpf_nf_ctx *ctx, const struct ipv6hdr *ip, const __u32 *source)
{
	struct address from = { .family = be16(ETH_P_IPV6) };
	__builtin_memcpy(from.words, source, 16);
	if (is_node(&from))
		return NF_ACCEPT;
	struct bpf_dynptr packet;
	struct layer layer = { .protocol = ip->nexthdr, .at = sizeof(*ip) };
	if (bpf_dynptr_from_skb((struct __sk_buff *)ctx->skb, 0, &packet) || !skip_extensions(&packet, &layer))
		return refuse_to_node(ctx, OTHER);
	if (!read_ports(&packet, &layer))
		return NF_ACCEPT;
	return from_no_node(ctx, &packet, &layer);
}

SEC("netfilter") int node_ipv6(struct bpf_nf_ctx *ctx)
{
	struct sk_buff *skb = ctx->skb;
	const struct ipv6hdr *ip =
		bpf_rdonly_cast(skb->head + skb->network_header, kernel_type(struct ipv6hdr));
	// The verifier follows no pointer to a part of what was cast.
	__u32 source[4] = { ip->saddr.words[0], ip->saddr.words[1], ip->saddr.words[2], ip->saddr.words[3] };
	return likely(is_usual_ipv6(source)) ? NF_ACCEPT : judge_ipv6(ctx, ip, source);
}
