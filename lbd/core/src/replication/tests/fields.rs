//! What is written and read field by field.

use super::*;

proptest! {
    /// What is written field by field has the bytes of the type that it is.
    #[test]
    fn flows_are_as_bincode_writes_them(generation: i64, millis: u32, port: u16, state: u8, tuple: [u8; 20]) {
        #[derive(bincode::Encode)]
        struct Whole(i64, u32, [u8; 40], u32, u32, u16, u8);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let mut replica = replica("a", 1);
        let mut whole = [0; 40];
        whole[..20].copy_from_slice(&tuple);
        let mut live = flow(&mut replica, 0);
        let Entry::Flow(flow) = &mut live.entry else { panic!("a flow") };
        (flow.tuple, flow.port, flow.state) = (whole, port, state);
        let [service, target] = [flow.service, flow.target].map(NameId::number);
        let remaining = Some(Duration::from_millis(millis.into())).filter(|_| millis != u32::MAX);
        let head = frame::Head { generation, remaining_ms: millis };
        codec::encode_entry(&live.entry, head, MINOR, &mut ours).unwrap();
        common::wire::append(&Whole(generation, millis, whole, service, target, port, state), &mut theirs).unwrap();
        prop_assert_eq!(&ours, &theirs);
        let mut names = names::Translation::default();
        for id in live.entry.names() {
            names.learn(id.number(), Some(id)).unwrap();
        }
        let mut rest = &ours[..];
        let decoded = codec::decode_entry(Table::Flows, &mut rest, &names, MINOR);
        prop_assert_eq!(decoded, Ok((generation, Some(Live { remaining, ..live }))));
        prop_assert!(rest.is_empty());
        for length in 0..ours.len() {
            let cut = codec::decode_entry(Table::Flows, &mut &ours[..length], &names, MINOR);
            prop_assert!(cut.is_err());
        }
    }
}
