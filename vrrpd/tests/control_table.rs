//! What `vrrpd status` shows, word for word.

use serde_json::json;
use vrrpd::table::render;

#[test]
fn the_table() {
    let status = json!({
        "node": "a", "peer": "b", "version": "0.1.0", "uptime_s": 7380, "status_age_ms": 5,
        "config_hash": "00000000000000aa", "maintenance": false, "lbd": "degraded",
        "peer_link": {
            "configured": true, "alive": true, "last_heard_ms_ago": 12, "same_config": false,
            "config_hash": "00000000000000bb", "version": "0.1.0"
        },
        "instances": [
            {
                "name": "web", "role": "active", "since_unix_ms": 1_000_000, "interface": "eth0", "vrid": 51,
                "priority": 200, "effective_priority": 200, "reasons": [],
                "vips": ["203.0.113.10/24", "2001:db8::10/64"],
                "routers": [
                    {
                        "family": "ipv4", "role": "active", "advert_interval_ms": 100, "last_advert_from": null,
                        "last_advert_priority": null, "last_advert_ms_ago": null, "peer_role": "backup",
                        "transitions": 2, "lateness_max_us": 1234
                    },
                ]
            },
            {
                "name": "storage", "role": "backup", "since_unix_ms": 60_000, "interface": "ens3", "vrid": 7,
                "priority": 150, "effective_priority": 50, "reasons": ["lbd_degraded", "gateway"], "vips": [],
                "routers": [
                    {
                        "family": "ipv6", "role": "backup", "advert_interval_ms": 1000,
                        "last_advert_from": "fe80::2", "last_advert_priority": 100, "last_advert_ms_ago": 400,
                        "peer_role": null, "transitions": 1, "lateness_max_us": 0
                    },
                ]
            },
        ]
    });
    let expected = "\
node a, peer b, vrrpd 0.1.0, up 2h 3m, configuration 00000000000000aa
peer link: alive, heard 12 ms ago, OTHER configuration 00000000000000bb, vrrpd 0.1.0
lbd: degraded, maintenance: off

INSTANCE  ROLE    FOR      PRIORITY     INTERFACE  VRID  VIRTUAL IPS
web       active  10s      200          eth0       51    203.0.113.10/24 2001:db8::10/64
storage   backup  15m 50s  50 (of 150)  ens3       7

web ipv4: active, adverts every 100 ms, peer is backup, 2 transitions, at most 1.234 ms late
storage: priority lowered by lbd_degraded, gateway
storage ipv6: backup, adverts every 1000 ms, last one from fe80::2 (priority 100) 400 ms ago, 1 transitions, at most 0.000 ms late
";
    let shown = render(&serde_json::from_value(status).unwrap(), 1_010_000);
    assert_eq!(shown, expected, "\n{shown}");
}

#[test]
fn an_old_state_is_pointed_out() {
    let status = json!({
        "node": "a", "peer": "b", "version": "0.1.0", "uptime_s": 1, "status_age_ms": 5000, "config_hash": "0",
        "maintenance": true, "lbd": "untracked", "instances": [],
        "peer_link": { "configured": false, "alive": false }
    });
    let shown = render(&serde_json::from_value(status).unwrap(), 0);
    assert!(shown.contains("peer link: not configured\n"), "{shown}");
    assert!(shown.contains("warning: this state is 5000 ms old"), "{shown}");
}
