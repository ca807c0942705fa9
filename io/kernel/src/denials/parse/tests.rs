//! Messages as kernel 6.18 sent them, whole and spoiled.

use std::fmt::Write;

use super::*;
use crate::nft::wire::Attributes;

const UDP_ANSWER: &str = "02002118080001000800020013000a0074617274616e20656772657373200000080004000000000308000500000000\
    021000080000060000defc77035128000006000f000001000006001100000e000012001000f670b2c54221defc7703512808000000140003000000\
    00006b0aed5300000000000e533424000900450000208aa240003f119d240a0200020a0100022328b0ae000c14246c617465";
const TCP4: &str = "02002118080001000800020014000a0074617274616e20696e677265737320000800040000000002080005000000000310000800\
    00060000a6835bea5bf0000006000f000001000006001100000e00001200100012826db2aac1a6835bea5bf00800000014000300000000006b0aed\
    5500000000000663df400009004500003c1c8840003f060b2e0a0100020a0200028c7001bb28a611fe00000000a002faf014350000020405b40402\
    080a5fe3bd6c000000000103030a";
const ICMP4: &str = "02002118080001000800020014000a0074617274616e20696e6772657373200008000400000000020800050000000003100008000\
    0060000a6835bea5bf0000006000f000001000006001100000e00001200100012826db2aac1a6835bea5bf00800000014000300000000006b0aed5\
    50000000000075cd9580009004500005409fa40003f011da90a0100020a02000208001308006f000155ed0a6b00000000be5c07000000000010111\
    2131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637";
const UDP6: &str = "0a0021180800010086dd020014000a0074617274616e20696e67726573732000080004000000000208000500000000031000080000\
    060000a6835bea5bf0000006000f000001000006001100000e00001200100012826db2aac1a6835bea5bf086dd000014000300000000006b0aed56\
    0000000000077d5a3800090060007fba000c113ffd000001000000000000000000000002fd00000200000000000000000000000281501f90000cfa\
    2500000001";
const TCP6: &str = "0a0021180800010086dd020014000a0074617274616e20696e67726573732000080004000000000208000500000000031000080000\
    060000a6835bea5bf0000006000f000001000006001100000e00001200100012826db2aac1a6835bea5bf086dd000014000300000000006b0aed56\
    00000000000bb31d54000900600ea9730028063ffd000001000000000000000000000003fd00000200000000000000000000000283d601bb72b352\
    d100000000a002fd20fa370000020405a00402080a7d0ab417000000000103030a";
const ICMP6: &str = "0a0021180800010086dd020014000a0074617274616e20696e6772657373200008000400000000020800050000000003100008000\
    0060000a6835bea5bf0000006000f000001000006001100000e00001200100012826db2aac1a6835bea5bf086dd000014000300000000006b0aed5\
    600000000000ca2226c000900600c20ff00403a3ffd000001000000000000000000000003fd0000020000000000000000000000028000473b00720\
    00156ed0a6b0000000011a20c0000000000101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637";
const RECORDED: [&str; 6] = [UDP_ANSWER, TCP4, ICMP4, UDP6, TCP6, ICMP6];

fn bytes(recorded: &str) -> Vec<u8> {
    let digits: Vec<u32> = recorded.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
}

/// A message about a packet.
fn message(packet: &[u8]) -> Vec<u8> {
    let attributes = Attributes::default().text(10, "tartan egress ").bytes(9, packet);
    let mut message = vec![0, 0];
    message.extend(LOG_GROUP.to_be_bytes());
    message.extend(attributes.as_bytes());
    message
}

/// An IPv6 packet with this next header and what follows.
fn ipv6(next: u8, rest: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, u8::try_from(rest.len()).unwrap(), next, 64];
    packet.extend([0xfd; 32]);
    packet.extend(rest);
    packet
}

#[test]
fn messages_are_read_as_they_are() {
    let mut text = String::new();
    for recorded in RECORDED {
        let told = denial(&bytes(recorded)).unwrap();
        let Denial { direction, source, destination, source_port: from, destination_port: to, .. } = told;
        write!(text, "{direction} {source} -> {destination}: {}, {from:?} -> {to:?}, ", told.protocol)
            .unwrap();
        writeln!(text, "{:?}, {}", told.icmp_type, told.length).unwrap();
    }
    insta::assert_snapshot!(text, @r"
    egress 10.2.0.2 -> 10.1.0.2: 17, Some(9000) -> Some(45230), None, 32
    ingress 10.1.0.2 -> 10.2.0.2: 6, Some(35952) -> Some(443), None, 60
    ingress 10.1.0.2 -> 10.2.0.2: 1, None -> None, Some(8), 84
    ingress fd00:1::2 -> fd00:2::2: 17, Some(33104) -> Some(8080), None, 52
    ingress fd00:1::3 -> fd00:2::2: 6, Some(33750) -> Some(443), None, 80
    ingress fd00:1::3 -> fd00:2::2: 58, None -> None, Some(128), 104
    ");
}

/// Nothing is made up of what is left.
#[test]
fn a_message_that_is_cut_is_none() {
    for recorded in RECORDED {
        let whole = bytes(recorded);
        for length in 0..whole.len() {
            assert_eq!(denial(&whole[..length]), None, "{length} of {}", whole.len());
        }
    }
}

/// The kernel copies the beginning of a packet only.
#[test]
fn a_packet_that_is_cut_tells_all_or_nothing() {
    for recorded in RECORDED {
        let whole = bytes(recorded);
        let packet = find(&whole[4..], 9).unwrap();
        let told = denial(&message(packet)).unwrap();
        let cuts = (0..packet.len()).map(|length| denial(&message(&packet[..length])));
        let cuts: Vec<Option<Denial>> = cuts.collect();
        assert!(cuts.iter().all(|cut| cut.is_none() || *cut == Some(told)), "{recorded}");
        assert!(cuts.iter().any(Option::is_some) && cuts.first() == Some(&None));
    }
}

#[test]
fn headers_between_are_passed_over_in_ipv6() {
    // Hop-by-hop options, destination options, then TCP.
    let chain =
        [[60, 0, 1, 4, 0, 0, 0, 0].as_slice(), &[6, 0, 1, 4, 0, 0, 0, 0], &[0x12, 0x34, 0, 80]].concat();
    let packet = ipv6(0, &chain);
    let told = denial(&message(&packet)).unwrap();
    assert_eq!((told.protocol, told.source_port, told.destination_port), (6, Some(0x1234), Some(80)));
    assert_eq!((told.direction, told.length), (Direction::Egress, 60));
    for length in 0..packet.len() {
        assert_eq!(denial(&message(&packet[..length])), None, "{length}");
    }
    // A fragment: its first bytes may be anything.
    let told = denial(&message(&ipv6(44, &[17, 0, 0, 8, 0, 0, 0, 1, 1, 2, 3, 4]))).unwrap();
    assert_eq!((told.protocol, told.source_port, told.destination_port), (17, None, None));
    // A chain without end, and a protocol without ports.
    assert_eq!(denial(&message(&ipv6(0, &[[0, 0, 1, 4, 0, 0, 0, 0]; 16].concat()))), None);
    let told = denial(&message(&ipv6(47, &[1, 2, 3, 4]))).unwrap();
    assert_eq!((told.protocol, told.source_port, told.icmp_type), (47, None, None));
}

/// Whatever a byte is, something is read or nothing is.
#[test]
fn no_byte_upsets_anything() {
    for recorded in RECORDED {
        let whole = bytes(recorded);
        for place in 0..whole.len() {
            for value in 0..=u8::MAX {
                let mut spoiled = whole.clone();
                spoiled[place] = value;
                let _ = denial(&spoiled);
            }
        }
    }
    // Another group and another prefix are not ours.
    let mut other = bytes(TCP4);
    other[3] ^= 1;
    assert_eq!(denial(&other), None);
    let at = bytes(TCP4).windows(6).position(|window| window == b"tartan").unwrap();
    let mut other = bytes(TCP4);
    other[at] = b'T';
    assert_eq!(denial(&other), None);
}
