// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// What the programs know of the kernel: helpers and functions, the fields that they look at (libbpf finds them by the
// running kernel's own BTF), and the headers of packets.

#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;

#define SEC(name) __attribute__((section(name), used))
#define inlined static inline __attribute__((always_inline))
#define apart static __attribute__((noinline))
#define as_in_kernel __attribute__((preserve_access_index))
#define likely(x) __builtin_expect(!!(x), 1)
#define NULL ((void *)0)
#define offset(type, field) ((__u32)__builtin_offsetof(type, field))
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define be16(x) ((__u16)__builtin_bswap16(x))
#define be32(x) ((__u32)__builtin_bswap32(x))
#else
#define be16(x) ((__u16)(x))
#define be32(x) ((__u32)(x))
#endif

// Maps, as libbpf reads them (Documentation/bpf/maps.rst).
#define number(name, value) int(*name)[value]
#define typed(name, of) typeof(of) *name

enum { BPF_MAP_TYPE_HASH = 1, BPF_MAP_TYPE_ARRAY = 2, BPF_F_NO_PREALLOC = 1, BPF_NOEXIST = 1 };

// Helpers (linux/bpf.h, `___BPF_FUNC_MAPPER`).
static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*bpf_skb_pull_data)(void *skb, __u32 length) = (void *)39;
static long (*bpf_probe_read_kernel_str)(void *to, __u32 size, const void *from) = (void *)115;
static __u64 (*bpf_ktime_get_boot_ns)(void) = (void *)125;
struct bpf_dynptr;
static long (*bpf_dynptr_read)(void *to, __u32 length, const struct bpf_dynptr *from, __u32 at,
			       __u64 flags) = (void *)201;

struct bpf_dynptr {
	__u64 : 64;
	__u64 : 64;
} __attribute__((aligned(8)));

// linux/bpf.h
struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
	__u32 tc_index;
	__u32 cb[5];
	__u32 hash;
	__u32 tc_classid;
	__u32 data;
	__u32 data_end;
};

enum { TC_ACT_UNSPEC = -1, TC_ACT_SHOT = 2, NF_DROP = 0, NF_ACCEPT = 1 };

struct net_device {
	char name[16];
	void *rx_handler;
} as_in_kernel;

struct sk_buff {
	struct net_device *dev;
	unsigned int len;
	__u16 network_header;
	unsigned char *head;
} as_in_kernel;

struct nf_hook_state {
	struct net_device *in;
} as_in_kernel;

struct bpf_nf_ctx {
	const struct nf_hook_state *state;
	struct sk_buff *skb;
} as_in_kernel;

// Headers of packets, as the kernel calls them (linux/if_ether.h, ip.h, ipv6.h).
struct ethhdr {
	__u8 h_dest[6];
	__u8 h_source[6];
	__u16 h_proto;
};

struct iphdr {
	__u8 version_ihl;
	__u8 tos;
	__u16 tot_len;
	__u16 id;
	__u16 frag_off;
	__u8 ttl;
	__u8 protocol;
	__u16 check;
	__u32 saddr;
	__u32 daddr;
};

struct in6_addr {
	__u32 words[4];
};

struct ipv6hdr {
	__u32 version_class_flow;
	__u16 payload_len;
	__u8 nexthdr;
	__u8 hop_limit;
	struct in6_addr saddr;
	struct in6_addr daddr;
};

enum { ETH_P_IP = 0x0800, ETH_P_ARP = 0x0806, ETH_P_IPV6 = 0x86dd };

// Functions of the kernel (Documentation/bpf/kfuncs.rst).
extern int bpf_dynptr_from_skb(struct __sk_buff *skb, __u64 flags, struct bpf_dynptr *packet)
	__attribute__((section(".ksyms")));
extern void *bpf_cast_to_kern_ctx(void *ctx) __attribute__((section(".ksyms")));
extern void *bpf_rdonly_cast(const void *object, __u32 type) __attribute__((section(".ksyms")));

// The number of a type in the running kernel's BTF (libbpf, bpf_core_read.h: BPF_CORE_TYPE_ID_TARGET).
#define kernel_type(type) ((__u32)__builtin_btf_type_id(*(typeof(type) *)0, 1))
