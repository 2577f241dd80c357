//! `GET /metrics`, in the OpenMetrics text format. Counters are zero at the daemon's start and survive reloads.
//!
//! | name | type | labels | what |
//! |---|---|---|---|
//! | `tandem_lbd_info` | gauge | `node`, `version`, `config_hash` | always 1 |
//! | `tandem_lbd_start_time_seconds` | gauge | | when the daemon started, Unix time |
//! | `tandem_lbd_ready` | gauge | | 1 if a worker runs and every service has a serving target |
//! | `tandem_lbd_workers_alive` | gauge | | worker threads that run |
//! | `tandem_lbd_workers_expected` | gauge | | worker threads there should be |
//! | `tandem_lbd_accept_errors_total` | counter | `worker` | failed accepts, such as too many open files |
//! | `tandem_lbd_reloads_total` | counter | `result` (`applied`, `refused`) | reloads |
//! | `tandem_lbd_api_connections_refused_total` | counter | | API connections closed because too many were open |
//! | `tandem_lbd_vrrpd_connected` | gauge | | 1 while `vrrpd` is connected |
//! | `tandem_lbd_vrrpd_connects_total` | counter | | connections to `vrrpd` made |
//! | `tandem_lbd_log_lines_lost_total` | counter | | lines of the log that were lost because standard error was not read |
//! | `tandem_lbd_checks_delayed_total` | counter | | health checks that had to wait because too many were under way |
//! | `tandem_lbd_check_failures_total` | counter | `reason` (`connect`, `timeout`, `closed`, `tls`, `answer`, `malformed`, `too_large`, `local`) | health checks that failed |
//! | `tandem_lbd_role` | gauge | `instance`, `role` | 1 for the role this node has, as `vrrpd` says |
//! | `tandem_lbd_service_connections_open` | gauge | `service` | client connections open now |
//! | `tandem_lbd_service_connections_max` | gauge | `service` | the most that may be open |
//! | `tandem_lbd_service_connections_total` | counter | `service` | client connections admitted |
//! | `tandem_lbd_service_connections_refused_total` | counter | `service`, `reason` (`access`, `max_connections`, `max_connections_per_source`, `rate`, `proxy_header`, `client_hello`, `header_timeout`, `client_gone`, `targets_full`, `queue_full`, `queue_timeout`, `local`, `connect_failed`, `connect_timeout`, `no_target`) | client connections reset before they had a target |
//! | `tandem_lbd_service_connections_queued_total` | counter | `service` | client connections that had to wait for a target with room |
//! | `tandem_lbd_service_rate_sources_forgotten_total` | counter | `service` | sources whose rate was forgotten because too many were known |
//! | `tandem_lbd_group_queue_waiting` | gauge | `group` | connections that wait for a target with room now |
//! | `tandem_lbd_group_queue_seconds` | histogram | `group` | how long those that had to wait for a target with room did so, whatever came of it; only with `queue` |
//! | `tandem_lbd_group_sticky_entries` | gauge | `group` | clients whose target is remembered |
//! | `tandem_lbd_group_sticky_forgotten_total` | counter | `group` | clients forgotten before their time because too many were known |
//! | `tandem_lbd_group_sticky_withheld_total` | counter | `group` | cookies of applications that were not remembered because their client has its share of the table |
//! | `tandem_lbd_group_http_requests_total` | counter | `group`, `class` | requests answered by the group's targets, those that have left it included; this and the next seven only for groups of `http` services |
//! | `tandem_lbd_group_http_requests_unserved_total` | counter | `group` | requests for which it had no target, or none with room |
//! | `tandem_lbd_group_http_request_duration_seconds` | histogram | `group` | from a request's head to its answer's end, of those that one of its targets has answered |
//! | `tandem_lbd_group_http_body_bytes` | histogram | `group`, `direction` (`to_target`, `to_client`) | how long the bodies of requests were that its targets have answered, and those of the answers, as they came: without heads and framing, before compression; those of no byte included, tunnels not |
//! | `tandem_lbd_group_http_bytes_total` | counter | `group`, `direction` (`to_target`, `to_client`) | bytes of requests for the group, further tries included, and of what was answered to them, and of what went through tunnels, counted when they end |
//! | `tandem_lbd_group_http_retries_total` | counter | `group`, `reason` (`connect`: its target could not be connected, `resent`: the target ended the connection before an answer came, or had done nothing with it) | further tries of requests for the group |
//! | `tandem_lbd_group_http_reused_connections_total` | counter | `group` | requests sent on a connection that had served others |
//! | `tandem_lbd_group_http_connections_kept` | gauge | `group` | connections to its targets that wait for the next request |
//! | `tandem_lbd_service_connections_ended_total` | counter | `service`, `end` (`done`, `client_reset`, `target_reset`, `client_vanished`, `target_vanished`, `idle`, `drained`, `stopped`) | relayed connections by how they ended |
//! | `tandem_lbd_service_connect_retries_total` | counter | `service` | connects tried again on another target |
//! | `tandem_lbd_service_connect_local_errors_total` | counter | `service` | connects that failed because this host had no file, port or memory for them; no target is blamed |
//! | `tandem_lbd_service_unhealthy_tries_total` | counter | `service` | connects while the target group was in panic |
//! | `tandem_lbd_service_datagrams_total` | counter | `service`, `direction` (`to_target`, `to_client`) | datagrams passed on; this and what follows for `udp` services only, whose sessions are counted as connections |
//! | `tandem_lbd_service_datagrams_dropped_total` | counter | `service`, `reason` (`refused`: no session for it, `truncated`, `too_big`, `queue_full`, `to_target`, `to_client`, `closing`) | datagrams not passed on |
//! | `tandem_lbd_service_sessions_moved_total` | counter | `service` | sessions that were given another target |
//! | `tandem_lbd_service_sessions_ended_total` | counter | `service`, `end` (`idle`, `drained`, `no_target`, `unlistened`, `stopped`) | sessions by how they ended |
//! | `tandem_lbd_service_session_socket_errors_total` | counter | `service` | sockets for sessions that could not be opened |
//! | `tandem_lbd_service_http_requests_total` | counter | `service`, `class` (`2xx` to `5xx`) | requests answered, by status; this and what follows for `http` services only |
//! | `tandem_lbd_service_http_own_answers_total` | counter | `service` | of these, answers that no target gave |
//! | `tandem_lbd_service_http_requests_malformed_total` | counter | `service`, `reason` (`line_end`, `first_line`, `method`, `target`, `path`, `other_rule`, `version`, `line_too_long`, `head_too_long`, `field_name`, `field_value`, `folded`, `underscore`, `host`, `length`, `length_and_coding`, `coding`, `connection`, `connect_method`, `expect`, `chunk_size`, `chunk_end`, `trailer`, `truncated`, `body_too_long`, `loop`, `misdirected`: for a host that the connection's certificate is not for, `rate_field`: more than one of the field that they are counted by, `max_forwards`) | requests refused for what they are like |
//! | `tandem_lbd_service_http_requests_cut_total` | counter | `service`, `reason` (`client`, `target`, `bad_answer`, `no_answer`: within `timeout.response`, `no_body`, `idle`, `drained`, `stopped`, `bad_body`, `body_too_long`, `slow`: below `limits.min_body_bytes_per_second`) | requests whose answer did not come to its end |
//! | `tandem_lbd_service_http_requests_resent_total` | counter | `service`, `result` (`sent`, `refused`: too many had been) | requests sent to a target again, because the connection ended before an answer came |
//! | `tandem_lbd_service_http_sticky_cookies_rejected_total` | counter | `service`, `reason` (`forged`: none that a node of the pair has made for the group, `stale`: older than `ttl`, `gone`: its target is not there any more, or takes nobody) | cookies of Tandem's own that did not count |
//! | `tandem_lbd_service_http_requests_denied_total` | counter | `service`, `reason` (`access`: by the rule's list, or the service's if that was another one when the client came, or if a proxy in `trust_forwarded` names the client, `missing`, `malformed`, `credentials`, `busy`: too many passwords were being compared, `algorithm`, `signature`, `key_unnamed`: a token that does not say which key has signed it, where more than four may have, `expired`, `not_yet`, `issuer`, `audience`, `untellable`: a name or claim that targets cannot be told in a field) | requests that were not let in by `auth` or `access` |
//! | `tandem_lbd_service_http_over_rate_total` | counter | `service` | requests over `rate` |
//! | `tandem_lbd_service_http_reused_connections_total` | counter | `service` | requests sent on a kept connection |
//! | `tandem_lbd_service_http_tunnels_total` | counter | `service` | connections that became tunnels (WebSocket) |
//! | `tandem_lbd_service_http_compressions_total` | counter | `service`, `result` (`compressed`, `refused`: passed as they were, because the worker compressed as many as it does, or as it does for one client) | answers that were to be compressed |
//! | `tandem_lbd_service_http_compressed_bytes_total` | counter | `service`, `when` (`before`, `after`) | bytes of answers that were compressed |
//! | `tandem_lbd_service_http2_connections_total` | counter | `service` | clients' connections of HTTP/2 |
//! | `tandem_lbd_service_http2_connections_expelled_total` | counter | `service`, `reason` (`reset`, `provoked_reset`, `continuation`, `settings`, `empty_data`, `ping`, `refused`, `window_update`, `other`; `decoder`: what it has had enough of, `protocol`: errors) | of these, connections closed for floods of such frames, or for errors of HTTP/2 |
//! | `tandem_lbd_service_http_request_duration_seconds` | histogram | `service` | from a request's head to its answer's end; where the answer opens a tunnel, to the answer's head, here and in all durations of requests |
//! | `tandem_lbd_service_http_body_bytes` | histogram | `service`, `direction` (`to_target`, `to_client`) | how long bodies were of requests that targets have answered, and of the answers, as of a group |
//! | `tandem_lbd_service_http_rule_requests_total` | counter | `service`, `rule` (its place in the file, from 1 on; `none`: met none, or was not understood), `class` | requests answered, by the rule that they met; the counters of a place go on after a reload, whatever rule is there then |
//! | `tandem_lbd_service_http_rule_request_duration_seconds` | histogram | `service`, `rule` | from a request's head to its answer's end, by the rule that it met |
//! | `tandem_lbd_service_http_rule_body_bytes` | histogram | `service`, `rule`, `direction` (`to_target`, `to_client`) | how long bodies were, as of a group, by the rule that the requests met |
//! | `tandem_lbd_service_http_rule_bytes_total` | counter | `service`, `rule`, `direction` (`to_target`, `to_client`) | bytes of requests and answers, as of a group, by the rule that the requests met; answers that no target gave included |
//! | `tandem_lbd_service_http_rule_retries_total` | counter | `service`, `rule`, `reason` (as of a group) | further tries of requests, by the rule that they met |
//! | `tandem_lbd_service_http_rule_reused_connections_total` | counter | `service`, `rule` | requests sent on a connection that had served others, by the rule that they met |
//! | `tandem_lbd_service_tls_handshakes_total` | counter | `service`, `version` (`1.2`, `1.3`), `kind` (`full`, `resumed`) | TLS handshakes with clients; this and what follows for services with `tls` only |
//! | `tandem_lbd_service_tls_handshakes_failed_total` | counter | `service`, `reason` (`plain_http`, `not_tls`, `version`, `nothing_in_common`, `protocol`, `client_certificate`, `refused`: by the client, `closed`: by the client, `timeout`, `too_long`, `misbehaved`, `local`: this end has not what it takes, `no_certificate`: the one that is ordered is not there yet) | TLS handshakes with clients that came to nothing |
//! | `tandem_lbd_service_tls_certificate_expiry_time_seconds` | gauge | `service`, `file`, `name` (its first) | when a certificate expires, Unix time |
//! | `tandem_lbd_service_connection_duration_seconds` | histogram | `service` | connections that had a target, from acceptance to the end |
//! | `tandem_lbd_service_access_log_lost_total` | counter | `service` | records lost by the file it logs to, because it was behind or could not be written; only with `access_log` |
//! | `tandem_lbd_service_access_log_left_out_total` | counter | `service` | records that were not written because they are not in the `sample`; only with `access_log` |
//! | `tandem_lbd_acme_certificates` | gauge | `state` (`here`, `missing`) | certificates that are ordered; the metrics of `acme` are there only where some are |
//! | `tandem_lbd_acme_orders_total` | counter | | orders that this node has placed |
//! | `tandem_lbd_acme_certificates_issued_total` | counter | | certificates that they have brought |
//! | `tandem_lbd_acme_failures_total` | counter | `reason` (`directory`: it was not to be reached, or is none, `account`, `rate_limited`: the authority wants fewer orders, `refused`: by the authority, `challenge`: it did not find the answer at the names, `timeout`, `certificate`: what came is of no use, `local`: this host could not do its part) | attempts that came to nothing |
//! | `tandem_lbd_acme_challenges_answered_total` | counter | | questions of the authority that this node has answered, for orders of either node |
//! | `tandem_lbd_acme_certificates_received_total` | counter | `result` (`taken`, `refused`: it cannot be used, or there were too many) | certificates that the other node has told of |
//! | `tandem_lbd_otlp_spans_total` | counter | `endpoint`, `result` (`exported`, `failed`: not taken by the collector, `dropped`: too many waited) | spans of requests, by what has become of them; only with `otlp` |
//! | `tandem_lbd_service_bytes_total` | counter | `service`, `direction` (`to_target`, `to_client`) | bytes relayed |
//! | `tandem_lbd_service_spliced_bytes_total` | counter | `service` | of these, bytes that stayed in the kernel |
//! | `tandem_lbd_group_mode` | gauge | `group`, `mode` (`normal`, `starting`, `backup`, `panic`, `none`) | 1 for the mode it is in |
//! | `tandem_lbd_group_targets` | gauge | `group`, `state` (`all`, `usable`, `ejected`) | targets |
//! | `tandem_lbd_group_check_failures_total` | counter | `group`, `reason` (as of all checks) | health checks of its targets that failed, those of targets that have left it included |
//! | `tandem_lbd_discovery_targets` | gauge | `group` | targets found, the last good list |
//! | `tandem_lbd_discovery_stale` | gauge | `group` | 1 while the source fails and the last good list is in use |
//! | `tandem_lbd_discovery_last_success_time_seconds` | gauge | `group` | when the source last gave a good answer, Unix time; absent if never |
//! | `tandem_lbd_discovery_answers_total` | counter | `group`, `result` (`changed`, `unchanged`, `unreachable`, `invalid`, `empty`) | what came of asking the source |
//! | `tandem_lbd_discovery_entries_left_out_total` | counter | `group`, `reason` (`over_limit`, `unusable`) | entries of good answers left out |
//! | `tandem_lbd_target_serving` | gauge | `group`, `target`, `address` | 1 if new connections may go there |
//! | `tandem_lbd_target_usable` | gauge | the same | 1 if it is ready, healthy and not ejected |
//! | `tandem_lbd_target_health` | gauge | the same and `state` (`healthy`, `unhealthy`, `undecided`, `unchecked`) | 1 for what its checks say |
//! | `tandem_lbd_target_health_differs` | gauge | the same | 1 if the other node's checks say something else, for comparison only; absent without a session with it |
//! | `tandem_lbd_target_weight` | gauge | the same | the weight in force |
//! | `tandem_lbd_target_share` | gauge | the same | weight × 256, less during a slow start, 0 for nothing |
//! | `tandem_lbd_target_ejections_total` | counter | the same and `result` (`ejected`, `refused`) | ejections, and those that `max_percent` did not allow; a reload keeps them |
//! | `tandem_lbd_target_connections_open` | gauge | the same | connections open now |
//! | `tandem_lbd_target_connections_total` | counter | the same | connections made |
//! | `tandem_lbd_target_connect_seconds` | histogram | the same | from the start of each connect until the connection was made: no wait before it, no try that failed and no TLS handshake; none for `udp` |
//! | `tandem_lbd_target_first_byte_seconds` | histogram | the same | from connected until the target's first byte |
//! | `tandem_lbd_target_connect_failures_total` | counter | the same and `reason` (`error`, `timeout`, `tls`: no handshake) | connects that failed |
//! | `tandem_lbd_target_connect_retries_total` | counter | the same | of these, failures after which another target was tried |
//! | `tandem_lbd_target_resets_total` | counter | the same | connections that the target reset |
//! | `tandem_lbd_target_vanished_total` | counter | the same | connections on which the target was not heard of any more |
//! | `tandem_lbd_target_bytes_total` | counter | the same and `direction` (`to_target`, `to_client`) | bytes relayed |
//! | `tandem_lbd_target_http_answers_total` | counter | the same and `class` | answers to HTTP requests, by status |
//! | `tandem_lbd_target_http_request_duration_seconds` | histogram | the same | from a request's connection to its answer's end |
//! | `tandem_lbd_target_http_body_bytes` | histogram | the same and `direction` (`to_target`, `to_client`) | how long bodies were of requests that it has answered, and of the answers, as of a group |
//! | `tandem_lbd_target_http_connections_kept` | gauge | the same | connections that wait for the next request |
//! | `tandem_lbd_target_http_reused_connections_total` | counter | the same | requests sent on a connection that had served others |
//! | `tandem_lbd_target_http_requests_resent_total` | counter | the same | requests sent again, here or to another one, because it ended the connection before an answer came |
//! | `tandem_lbd_target_checks_total` | counter | the same and `result` (`success`, `failure`) | health checks |
//! | `tandem_lbd_target_check_failures_total` | counter | the same and `reason` (as of all checks) | health checks that failed; those that this host could not make (`local`) are no results |
//! | `tandem_lbd_target_check_duration_seconds` | gauge | the same | how long the last check took |
//! | `tandem_lbd_kernel_attached` | gauge | `interface`, `how` (`tcx`, `clsact`, `xdp`) | 1 for each interface that the forwarding program is on; this and what follows only with services of mode `nat` or `dsr` |
//! | `tandem_lbd_kernel_troubles` | gauge | | targets that have no way, interfaces that are missing and the like, as `lbd status` lists them |
//! | `tandem_lbd_kernel_failures_total` | counter | | updates of the kernel's maps that failed and were tried again |
//! | `tandem_lbd_kernel_network_failures_total` | counter | | questions about ways to targets that the kernel has not answered |
//! | `tandem_lbd_kernel_attached_again_total` | counter | | times that the forwarding program was put where somebody else had taken it off |
//! | `tandem_lbd_kernel_flows` | gauge | | flows at the last count, made every few seconds |
//! | `tandem_lbd_kernel_flows_max` | gauge | | flows that can be remembered |
//! | `tandem_lbd_kernel_flows_expired_total` | counter | | flows deleted because they were over |
//! | `tandem_lbd_kernel_path_mtu_refused_total` | counter | | words of routers (ICMP) that the way through a tunnel takes less than any does, or less than IPv6 guarantees to the clients whose packets are in it: not believed |
//! | `tandem_lbd_kernel_next_hops_total` | counter | `what` (`looked_for`: the kernel was asked to look for them, or after them, `put_off`: more than 256 that are not known within a second, `left_out`: flows of clients on this host's own networks beyond 1,024 of these, in each walk through the flows, `untold`: the program had no room to tell of them) | clients, and gateways on the ways to them, that the program in the driver sends answers of `nat` to, which has the kernel's table of neighbours and no other |
//! | `tandem_lbd_kernel_drops_total` | counter | `reason` (`malformed`, `not_active`, `denied`, `source_rate`, `no_target`, `no_next_hop`: no way to the target, or to the client; with `attach = "xdp"` also one by an interface where the program is not, `no_port`, `flows_full`: forwarded, but not remembered, `fragment`, `too_big`, `unhealthy`, `ttl`, `clash`, `icmp_inner`: an ICMP error about none of the flows, left to the host, `headroom`, `solicitation`: an ARP or neighbour request for a VIP that this node does not own, `answer_rate`, `unknown_flow`: from a target, for a flow of the other node that it has not told of yet, for a port that an upgrade to other maps has not written down yet, or for one that changed hands in that moment, `not_cut`: as `too_big`, but of a sender that lets routers cut it) | packets for a service that were not forwarded, but for the two that say otherwise; like all that follow counted by the kernel, on over restarts |
//! | `tandem_lbd_kernel_check_packets_total` | counter | `what` (`sent`, `returned`, `dropped`: for want of a way) | packets of health checks through virtual IPs, which count for no service |
//! | `tandem_lbd_kernel_sent_to_other_total` | counter | | answers of targets sent on to the other node, which has begun their flows |
//! | `tandem_lbd_kernel_short_port_searches_total` | counter | | searches for a port of `nat` that ended at the first 4, because a processor had looked further for 1,024 packets of no known flow within a sixteenth of a second |
//! | `tandem_lbd_kernel_service_flows` | gauge | `service` | flows at the last count |
//! | `tandem_lbd_kernel_service_new_flows_total` | counter | `service` | flows begun |
//! | `tandem_lbd_kernel_service_unstored_flows_total` | counter | `service` | flows that were not remembered: too many were new, they began with a reset, or the table had no room, which counts with each packet that would have brought one into it |
//! | `tandem_lbd_kernel_service_pushed_out_flows_total` | counter | `service` | half-open flows that made place for others before their time was over; with `preserve_client_ip` they are in a table of the kernel's, which does not say |
//! | `tandem_lbd_kernel_service_packets_total` | counter | `service`, `direction` (`to_target`, `to_client`) | packets forwarded; with `dsr` there are none to clients |
//! | `tandem_lbd_kernel_service_bytes_total` | counter | `service`, `direction` | bytes forwarded |
//! | `tandem_lbd_kernel_target_flows` | gauge | `group`, `target` | flows at the last count |
//! | `tandem_lbd_kernel_target_new_flows_total` | counter | `group`, `target` | flows begun |
//! | `tandem_lbd_kernel_target_packets_total` | counter | `group`, `target`, `direction` | packets forwarded; where targets of several groups have one address and port, answers through `nat` of flows that have not proved themselves count for the service alone |
//! | `tandem_lbd_kernel_target_bytes_total` | counter | `group`, `target`, `direction` | bytes forwarded |
//! | `tandem_lbd_second_chance_running` | gauge | | 1 while proxied connections survive a move of their virtual IPs; this and what follows only where those of a pair are proxied |
//! | `tandem_lbd_second_chance_draining` | gauge | `instance` | connections, and sessions of datagrams, that this node serves although their virtual IPs have left |
//! | `tandem_lbd_second_chance_draining_sessions` | gauge | `instance` | how many of them are sessions of datagrams |
//! | `tandem_lbd_second_chance_draining_by_peer` | gauge | `instance` | the same of the other node, as it says |
//! | `tandem_lbd_second_chance_sends` | gauge | `instance` | 1 while packets of connections that are not known here are sent on to the other node |
//! | `tandem_lbd_second_chance_sends_datagrams` | gauge | `instance` | 1 while datagrams of sessions that the other node has are sent on to it |
//! | `tandem_lbd_second_chance_tunnel` | gauge | `instance` | 1 if the other node is no neighbour in the instance's network, and is reached through the tunnel |
//! | `tandem_lbd_second_chance_packets_total` | counter | `what` (`sent`: to the other node, `sent_error`: ICMP about its connections, `received`: from it, `back`: came back from it and was dropped, `cookie`: the end of a handshake by SYN cookie here, `strange`: came out of the tunnel, but not from the other node by the link, or for nothing that lives here, and was dropped) | packets for proxied addresses and ports; those of this node's own connections and sessions are not counted |
//! | `tandem_lbd_second_chance_sessions_refused_total` | counter | | sessions of datagrams that do not survive a move, for want of room among 131,072 |
//! | `tandem_lbd_peer_connected` | gauge | | 1 while there is a session with the other node's `lbd`; this and what follows only with a second node, `peer_address` and `key_file` |
//! | `tandem_lbd_peer_listening` | gauge | | 1 while the other node can connect to this one |
//! | `tandem_lbd_peer_attempts_total` | counter | | connections to the other node begun |
//! | `tandem_lbd_peer_attempts_failed_total` | counter | `reason` (as below) | of these, connections that did not become a session |
//! | `tandem_lbd_peer_connections_refused_total` | counter | `reason` (`address`: not the other node's, `too_many`, `unreachable`, `timeout`, `closed`: by the other end, `not_tls`, `tls_version`, `key_type`, `key`: not the other node's, `protocol`: another release, `forged`: damaged or recorded, `superseded`: a newer one was there, `other`) | connections to this node that did not become a session |
//! | `tandem_lbd_peer_sessions_total` | counter | | sessions with the other node |
//! | `tandem_lbd_peer_sessions_ended_total` | counter | `end` (`closed`: by the other node, `cut`, `silent`: its host was, or it took nothing, `truncated`, `oversized`, `empty`, `damaged`, `stalled`: it took hardly anything, `replaced`: by a newer connection, `dropped`: by this node, `stopped`) | sessions by how they ended |
//! | `tandem_lbd_peer_messages_total` | counter | `direction` (`in`, `out`) | messages |
//! | `tandem_lbd_peer_bytes_total` | counter | `direction` (`in`, `out`) | their bytes, before TLS |
//! | `tandem_lbd_peer_queue_bytes` | gauge | | bytes that wait to be sent |
//! | `tandem_lbd_peer_queue_bytes_max` | gauge | | bytes that may wait |
//! | `tandem_lbd_peer_queue_lag_seconds` | gauge | | how long the first message in the queue has waited |
//! | `tandem_lbd_replication_synced` | gauge | | 1 while this node has everything that the other one replicates; this and what follows only while replication runs |
//! | `tandem_lbd_replication_peer_synced` | gauge | | 1 while the other node has everything of this one |
//! | `tandem_lbd_replication_same_config` | gauge | | 1 if the other node runs the same configuration, 0 if another; absent before it was heard |
//! | `tandem_lbd_replication_same_version` | gauge | | 1 if the other node's `lbd` is of the same release, 0 if of another; absent before it was heard, and if it does not say |
//! | `tandem_lbd_replication_lag_seconds` | gauge | | age of the oldest change that the other node has not been sent; without a session it grows from the first change on, until the next session has told everything |
//! | `tandem_lbd_replication_dirty` | gauge | | changes that wait to be sent |
//! | `tandem_lbd_replication_tombstones` | gauge | | deletions that the other node has not acknowledged: what it changes until it has does not bring them back |
//! | `tandem_lbd_replication_unacknowledged_bytes` | gauge | | bytes sent that the other node has not written yet |
//! | `tandem_lbd_replication_entries` | gauge | `table` (`flows`, `sticky`, `udp_sessions`, `rates`, `targets`, `health`, `members`) | entries of either node known |
//! | `tandem_lbd_replication_peer_entries` | gauge | `table` (`rates`, `health`) | the other node's own entries, which stand beside this one's |
//! | `tandem_lbd_replication_changes_total` | counter | `table`, `direction` (`in`, `out`) | entries, new and changed ones |
//! | `tandem_lbd_replication_deletions_total` | counter | `direction` | entries that were over |
//! | `tandem_lbd_replication_tombstones_lost_total` | counter | `reason` (`full`: 65,536 waited, `expired`: the other node was away for five minutes) | deletions forgotten before the other node had acknowledged them: an entry that it has changed meanwhile comes back, for as long as it lasts |
//! | `tandem_lbd_replication_skipped_total` | counter | `reason` (`older`: than what is here, `unknown_table`, `unknown_name`, `generation`, `table_full`, `no_service_or_target`: another configuration, `invalid`: says what cannot be, `port_taken`, `flows_full`, `used_here`: this node's own was used later, `rings_full`: there were too many rings, `other`) | entries received that were not applied |
//! | `tandem_lbd_replication_refused_total` | counter | `table` | entries received that name what this node does not know, or say what cannot be; those of flows are in `replication_skipped` |
//! | `tandem_lbd_replication_peer_refused` | gauge | | entries of the present session that the other node had no place for; its own counts say why |
//! | `tandem_lbd_replication_same_size` | gauge | `table` | 1 if the other node's table had room for as many entries as this one's when the last session began, 0 if not; absent before it was heard |
//! | `tandem_lbd_replication_ended_total` | counter | `reason` (`other_major_version`: another release, `self_connection`, `same_name`: both nodes have one name, `no_hello`, `idle`: it said nothing any more, `oversized`, `malformed`, `out_of_order`: what it sent, `disconnected`) | sessions that ended, or were refused at their beginning; the log says why, too |
//! | `tandem_lbd_replication_snapshots_total` | counter | `direction` | everything that a node has, told to its end |
//! | `tandem_lbd_replication_resyncs_total` | counter | | times that this began anew because too much was waiting |
//! | `tandem_lbd_replication_swept_total` | counter | | entries deleted because the other node had them no longer |
//! | `tandem_lbd_replication_adopted_total` | counter | | entries taken over from a former life of the other node |
//! | `tandem_lbd_replication_vanished_total` | counter | | entries of this node's own that a snapshot did not find any more, although nobody had said that they were over |
//! | `tandem_lbd_replication_names` | gauge | | names of services, groups, targets, zones and tables of targets that entries refer to; 65,536 at most |
//! | `tandem_lbd_replication_not_replicated_total` | counter | | changes that found no room in the tables of what is replicated, or none for the names that they refer to |
//! | `tandem_lbd_replication_reports_lost_total` | counter | | reports of the walk through all flows that found no room; flows that are used go on to be told, and for those that are over a session begins anew |
//! | `tandem_lbd_replication_untold_total` | counter | | changes of flows that the kernel's program had no room to tell of; walks through all flows find them: those of flows in use when it is their turn, those that end flows once they are over |
//! | `tandem_lbd_replication_ring_changes_total` | counter | `peer` (`acknowledged`: the other node knew the ring and all flows before, `unacknowledged`: it did not say so within 100 ms, `alone`: it was not in step, so nobody waited) | rings that `nat` and `dsr` have come to choose targets from in the place of others |
//! | `tandem_lbd_replication_peer_rings` | gauge | | the other node's rings that are known |

mod acme;
mod chance;
mod checks;
mod durations;
pub(crate) mod http;
mod kernel;
mod otlp;
mod peer;
pub(crate) mod tls;
mod udp;

use std::fmt;
use std::sync::Arc;

use common::ipc::Role;
use common::time::Instant;
use lbd_core::discover::{FailureKind, Status};
use lbd_core::group::{Mode, View};
use lbd_core::health::HealthState;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::discover::Directory;
use crate::l4::{End, Refusal};
use crate::logging;
use crate::peer::PeerLink;
use crate::reload::hash_text;
use crate::shared::Shared;
use crate::snapshot::{Group, Service, Target};
use crate::summary;

/// The format's content type.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics as they are now.
pub(crate) fn encode(shared: &Arc<Shared>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("tandem_lbd");
    registry.register_collector(Box::new(Now(Arc::clone(shared))));
    let mut text = String::with_capacity(8192);
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Now(Arc<Shared>);

impl Collector for Now {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut out = Out(encoder);
        let shared = &*self.0;
        let snapshot = shared.snapshot.load_full();
        encode_daemon(&mut out, shared, snapshot.config.hash)?;
        encode_services(&mut out, &snapshot.services)?;
        encode_discovery(&mut out, &shared.discovery)?;
        let now = shared.clock.now().at;
        encode_groups(&mut out, &snapshot.groups, now)?;
        http::encode_groups(&mut out, &snapshot.services)?;
        let removed = shared.removed().clone();
        encode_targets(&mut out, &snapshot.groups, &removed, now, &shared.peer)?;
        durations::encode_services(&mut out, &snapshot.services)?;
        acme::encode(&mut out, &shared.acme, &snapshot.tls)?;
        otlp::encode(&mut out, &snapshot.exporters)?;
        kernel::encode(&mut out, &shared.kernel)?;
        chance::encode(&mut out, &shared.chance)?;
        peer::encode(&mut out, &shared.peer)
    }
}

/// What is known of the search for targets.
fn encode_discovery(out: &mut Out<'_>, directory: &Directory) -> fmt::Result {
    let groups: Vec<(String, Status)> = directory
        .groups()
        .into_iter()
        .map(|(group, found)| (group, found.state().status().clone()))
        .collect();
    let each = |value: fn(&Status) -> Option<f64>| {
        groups
            .iter()
            .filter_map(move |(group, status)| Some((vec![("group", group.as_str())], value(status)?)))
    };
    out.gauges("discovery_targets", "Targets found", each(|status| Some(status.targets as f64)))?;
    let stale = each(|status| Some(flag(status.stale_since.is_some())));
    out.gauges("discovery_stale", "Whether the source fails and the last good list is in use", stale)?;
    let success = each(|status| status.last_success.map(|at| at.as_millis() as f64 / 1000.0));
    let help = "When the source last gave a good answer, Unix time";
    out.gauges("discovery_last_success_time_seconds", help, success)?;
    let answers = groups.iter().flat_map(|(group, status)| {
        let counts = &status.counts;
        let good = [("changed", counts.changes), ("unchanged", counts.answers - counts.changes)];
        let bad = FailureKind::ALL.map(FailureKind::name).into_iter().zip(counts.failures);
        let labels = move |result| vec![("group", group.as_str()), ("result", result)];
        good.into_iter().chain(bad).map(move |(result, count)| (labels(result), count))
    });
    out.counters("discovery_answers", "What came of asking the source of targets", answers)?;
    let left_out = groups.iter().flat_map(|(group, status)| {
        let counts = &status.counts;
        [("over_limit", counts.over_limit), ("unusable", counts.unusable)]
            .map(|(reason, count)| (vec![("group", group.as_str()), ("reason", reason)], count))
    });
    out.counters("discovery_entries_left_out", "Entries of good answers left out", left_out)
}

/// A label set.
type Labels<'a> = Vec<(&'static str, &'a str)>;

struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn counters<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(value).encode(metric.encode_family(&labels.as_slice())?)?;
        }
        Ok(())
    }

    fn gauges<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(metric.encode_family(&labels.as_slice())?)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }
}

fn flag(set: bool) -> f64 {
    if set { 1.0 } else { 0.0 }
}

fn encode_daemon(out: &mut Out<'_>, shared: &Shared, hash: u64) -> fmt::Result {
    let hash = hash_text(hash);
    let info = vec![
        ("node", shared.life.node.as_str()),
        ("version", crate::process::release()),
        ("config_hash", hash.as_str()),
    ];
    out.gauges("info", "Always 1", [(info, 1.0)])?;
    let started = shared.started.as_millis() as f64 / 1000.0;
    out.gauge("start_time_seconds", "When the daemon started, Unix time", started)?;
    out.gauge("ready", "Whether every service is served", flag(summary::ready(shared).is_ok()))?;
    let health = shared.health.borrow().clone();
    out.gauge("workers_alive", "Worker threads that run", f64::from(health.workers_alive))?;
    out.gauge("workers_expected", "Worker threads there should be", f64::from(health.workers_expected))?;
    let names: Vec<String> = (0..shared.workers.len()).map(|index| index.to_string()).collect();
    let errors = names.iter().zip(&shared.workers);
    let errors =
        errors.map(|(name, worker)| (vec![("worker", name.as_str())], worker.counters.accept_errors.get()));
    out.counters("accept_errors", "Failed accepts", errors)?;
    let control = &shared.control;
    let reloads = [("applied", &control.reloads_applied), ("refused", &control.reloads_refused)];
    let reloads = reloads.map(|(result, count)| (vec![("result", result)], count.get()));
    out.counters("reloads", "Reloads", reloads)?;
    out.counter("api_connections_refused", "API connections refused", control.api_refused.get())?;
    let vrrpd = shared.vrrpd.borrow().clone();
    out.gauge("vrrpd_connected", "Whether vrrpd is connected", flag(vrrpd.connected))?;
    out.counter("vrrpd_connects", "Connections to vrrpd made", control.vrrpd_connects.get())?;
    out.counter("log_lines_lost", "Log lines that standard error had no room for", logging::lost())?;
    checks::encode(out, &control.checks)?;
    let all = [Role::Init, Role::Backup, Role::Active, Role::Fault];
    let roles = vrrpd.roles.iter().flat_map(|(instance, &now)| {
        let labels = move |role: Role| vec![("instance", instance.as_str()), ("role", role.name())];
        all.map(move |role| (labels(role), flag(role == now)))
    });
    out.gauges("role", "The role of this node", roles)
}

fn encode_services(out: &mut Out<'_>, services: &[Arc<Service>]) -> fmt::Result {
    let name = |service: &'_ Arc<Service>| service.config.name.clone();
    let names: Vec<String> = services.iter().map(name).collect();
    let each = || names.iter().map(String::as_str).zip(services);
    let labels = |service| vec![("service", service)];
    out.gauges(
        "service_connections_open",
        "Client connections open now",
        each().map(|(name, service)| (labels(name), f64::from(service.shared.open.open()))),
    )?;
    out.gauges(
        "service_connections_max",
        "Client connections that may be open",
        each().map(|(name, service)| (labels(name), f64::from(service.config.limits.max_connections))),
    )?;
    out.counters(
        "service_connections",
        "Client connections admitted",
        each().map(|(name, service)| (labels(name), service.shared.counters.sum(|shard| &shard.admitted))),
    )?;
    out.counters(
        "service_connections_refused",
        "Client connections reset",
        each().flat_map(|(name, service)| {
            let count = |it: Refusal| service.shared.counters.sum(|shard| &shard.refusals[it.index()]);
            Refusal::ALL.map(|it| (vec![("service", name), ("reason", it.name())], count(it)))
        }),
    )?;
    out.counters(
        "service_connections_ended",
        "Relayed connections by how they ended",
        each().flat_map(|(name, service)| {
            let count = |end: End| service.shared.counters.sum(|shard| &shard.ends[end.index()]);
            End::ALL.map(|end| (vec![("service", name), ("end", end.name())], count(end)))
        }),
    )?;
    encode_service_work(out, &names, services)?;
    http::encode(out, services)?;
    tls::encode(out, services)?;
    udp::encode(out, services)
}

fn encode_service_work(out: &mut Out<'_>, names: &[String], services: &[Arc<Service>]) -> fmt::Result {
    let each = || names.iter().map(String::as_str).zip(services);
    let labels = |service| vec![("service", service)];
    out.counters(
        "service_connect_retries",
        "Connects tried again on another target",
        each().map(|(name, service)| (labels(name), service.shared.counters.sum(|shard| &shard.retries))),
    )?;
    out.counters(
        "service_connect_local_errors",
        "Connects that failed because this host had no file, port or memory for them",
        each()
            .map(|(name, service)| (labels(name), service.shared.counters.sum(|shard| &shard.local_errors))),
    )?;
    out.counters(
        "service_connections_queued",
        "Client connections that had to wait for a target with room",
        each().map(|(name, service)| (labels(name), service.shared.counters.sum(|shard| &shard.queued))),
    )?;
    out.counters(
        "service_rate_sources_forgotten",
        "Sources whose rate was forgotten because too many were known",
        each().map(|(name, service)| (labels(name), service.guard.rate_sources_forgotten())),
    )?;
    out.counters(
        "service_unhealthy_tries",
        "Connects while the target group was in panic",
        each().map(|(name, service)| {
            (labels(name), service.shared.counters.sum(|shard| &shard.unhealthy_tries))
        }),
    )?;
    out.counters(
        "service_bytes",
        "Bytes relayed",
        each().flat_map(|(name, service)| {
            let counters = &service.shared.counters;
            [
                (
                    vec![("service", name), ("direction", "to_target")],
                    counters.sum(|shard| &shard.bytes_to_target),
                ),
                (
                    vec![("service", name), ("direction", "to_client")],
                    counters.sum(|shard| &shard.bytes_to_client),
                ),
            ]
        }),
    )?;
    out.counters(
        "service_spliced_bytes",
        "Bytes relayed without copying them",
        each()
            .map(|(name, service)| (labels(name), service.shared.counters.sum(|shard| &shard.bytes_spliced))),
    )
}

fn encode_groups(out: &mut Out<'_>, groups: &[Arc<Group>], now: Instant) -> fmt::Result {
    let modes = groups.iter().flat_map(|group| {
        let (name, mode) = (group.config.name.as_str(), group.mode());
        Mode::ALL.map(|it| (vec![("group", name), ("mode", it.name())], flag(it == mode)))
    });
    out.gauges("group_mode", "From where a group takes its targets", modes)?;
    let counts = groups.iter().flat_map(|group| {
        let views: Vec<View> = group.views(now).into_iter().flatten().collect();
        let count = |of: fn(&View) -> bool| views.iter().filter(|view| of(view)).count() as f64;
        let labels = |state| vec![("group", group.config.name.as_str()), ("state", state)];
        [
            (labels("all"), count(|_| true)),
            (labels("usable"), count(|view| view.usable)),
            (labels("ejected"), count(|view| view.ejected_for.is_some())),
        ]
    });
    out.gauges("group_targets", "Targets of a group", counts)?;
    checks::encode_groups(out, groups)?;
    encode_waiting(out, groups)
}

/// Who waits for a target, and who has one for good.
fn encode_waiting(out: &mut Out<'_>, groups: &[Arc<Group>]) -> fmt::Result {
    let labels = |group: &'_ Arc<Group>| group.config.name.clone();
    let names: Vec<String> = groups.iter().map(labels).collect();
    let each = || names.iter().map(|name| vec![("group", name.as_str())]).zip(groups);
    let waiting = each().map(|(labels, group)| (labels, group.shared.queue.waiting() as f64));
    out.gauges("group_queue_waiting", "Connections that wait for a target with room", waiting)?;
    let queues = each().filter(|(_, group)| group.config.queue.is_some());
    let waits =
        queues.map(|(labels, group)| (labels, group.shared.counters.counts(|shard| &shard.queue_times)));
    out.histograms("group_queue_seconds", "How long was waited for a target with room", waits)?;
    let tables = || each().filter_map(|(labels, group)| Some((labels, &group.sticky.as_ref()?.table)));
    let entries = tables().map(|(labels, table)| (labels, table.len() as f64));
    out.gauges("group_sticky_entries", "Clients whose target is remembered", entries)?;
    let forgotten = tables().map(|(labels, table)| (labels, table.forgotten()));
    out.counters(
        "group_sticky_forgotten",
        "Clients forgotten before their time for want of room",
        forgotten,
    )?;
    let withheld = tables().map(|(labels, table)| (labels, table.withheld()));
    out.counters(
        "group_sticky_withheld",
        "Cookies not remembered because their client has its share",
        withheld,
    )
}

/// A target of the configuration, with what its labels borrow from.
struct Labelled<'a> {
    target: &'a Target,
    address: String,
}

impl<'a> Labelled<'a> {
    fn new(target: &'a Target) -> Self {
        Self { target, address: target.key.address.to_string() }
    }

    fn labels(&self) -> Labels<'_> {
        vec![("group", &self.target.key.group), ("target", &self.target.key.id), ("address", &self.address)]
    }

    fn labels_and(&self, name: &'static str, value: &'static str) -> Labels<'_> {
        let mut labels = self.labels();
        labels.push((name, value));
        labels
    }
}

/// What has gone through targets.
fn encode_traffic(out: &mut Out<'_>, targets: &[Labelled<'_>]) -> fmt::Result {
    let resets = |it: &Labelled<'_>| it.target.counters.sum(|shard| &shard.resets);
    out.counters(
        "target_resets",
        "Connections that the target reset",
        targets.iter().map(|it| (it.labels(), resets(it))),
    )?;
    let vanished = |it: &Labelled<'_>| it.target.counters.sum(|shard| &shard.vanished);
    out.counters(
        "target_vanished",
        "Connections on which the target was not heard of any more",
        targets.iter().map(|it| (it.labels(), vanished(it))),
    )?;
    out.counters(
        "target_bytes",
        "Bytes relayed",
        targets.iter().flat_map(|it| {
            let counters = &it.target.counters;
            [
                (it.labels_and("direction", "to_target"), counters.sum(|shard| &shard.bytes_to_target)),
                (it.labels_and("direction", "to_client"), counters.sum(|shard| &shard.bytes_to_client)),
            ]
        }),
    )
}

/// How targets stand.
fn encode_standing(out: &mut Out<'_>, targets: &[(Labelled<'_>, View)], peer: &PeerLink) -> fmt::Result {
    let gauges = |value: fn(&Target, &View) -> f64| {
        targets.iter().map(move |(it, view)| (it.labels(), value(it.target, view)))
    };
    out.gauges(
        "target_serving",
        "Whether new connections may go there",
        gauges(|target, _| flag(target.serving())),
    )?;
    out.gauges(
        "target_usable",
        "Whether it is ready, healthy and not ejected",
        gauges(|_, view| flag(view.usable)),
    )?;
    let health = targets.iter().flat_map(|(it, view)| {
        HealthState::ALL.map(|state| (it.labels_and("state", state.name()), flag(state == view.health)))
    });
    out.gauges("target_health", "What its checks say", health)?;
    let differs = targets.iter().filter_map(|(it, view)| {
        let other = peer.health(&it.target.key.group, &it.target.key.id)?;
        Some((it.labels(), flag(other != view.health)))
    });
    out.gauges("target_health_differs", "Whether the other node's checks say something else", differs)?;
    out.gauges("target_weight", "The weight in force", gauges(|_, view| f64::from(view.weight)))?;
    let share = gauges(|_, view| f64::from(view.share));
    out.gauges("target_share", "Weight times 256, less during a slow start, 0 for nothing", share)?;
    out.counters(
        "target_ejections",
        "Ejections, and those that were refused",
        targets.iter().flat_map(|(it, view)| {
            [
                (it.labels_and("result", "ejected"), view.ejections),
                (it.labels_and("result", "refused"), view.ejections_refused),
            ]
        }),
    )
}

/// Those of the groups, and `removed` ones as long as connections to them go on: nothing that goes through them is missing in a sum.
fn encode_targets(
    out: &mut Out<'_>,
    groups: &[Arc<Group>],
    removed: &[Arc<Target>],
    now: Instant,
    peer: &PeerLink,
) -> fmt::Result {
    let all = groups.iter().flat_map(|group| group.targets.iter().zip(group.views(now)));
    let present: Vec<(Labelled<'_>, View)> =
        all.filter_map(|(target, view)| Some((Labelled::new(target), view?))).collect();
    encode_standing(out, &present, peer)?;
    let mut targets: Vec<Labelled<'_>> = present.into_iter().map(|(it, _)| it).collect();
    let lingers = |target: &&Arc<Target>| {
        target.counters.sum(|shard| &shard.open) > 0 && targets.iter().all(|it| it.target.key != target.key)
    };
    let removed: Vec<_> = removed.iter().filter(lingers).map(|target| Labelled::new(target)).collect();
    targets.extend(removed);
    encode_work(out, &targets)
}

/// What targets have done.
fn encode_work(out: &mut Out<'_>, targets: &[Labelled<'_>]) -> fmt::Result {
    let gauges =
        |value: fn(&Labelled<'_>) -> f64| targets.iter().map(move |target| (target.labels(), value(target)));
    let open = gauges(|it| it.target.counters.sum(|shard| &shard.open) as f64);
    out.gauges("target_connections_open", "Connections open now", open)?;
    let connected = |it: &Labelled<'_>| it.target.counters.sum(|shard| &shard.connected);
    out.counters(
        "target_connections",
        "Connections made",
        targets.iter().map(|target| (target.labels(), connected(target))),
    )?;
    out.counters(
        "target_connect_failures",
        "Connects that failed",
        targets.iter().flat_map(|it| {
            let counters = &it.target.counters;
            [
                (it.labels_and("reason", "error"), counters.sum(|shard| &shard.connect_errors)),
                (it.labels_and("reason", "timeout"), counters.sum(|shard| &shard.connect_timeouts)),
                (it.labels_and("reason", "tls"), counters.sum(|shard| &shard.tls_errors)),
            ]
        }),
    )?;
    let retried = |it: &Labelled<'_>| it.target.counters.sum(|shard| &shard.retried);
    out.counters(
        "target_connect_retries",
        "Failures after which another target was tried",
        targets.iter().map(|target| (target.labels(), retried(target))),
    )?;
    encode_traffic(out, targets)?;
    durations::encode_targets(out, targets)?;
    http::encode_targets(out, targets)?;
    checks::encode_targets(out, targets)
}
