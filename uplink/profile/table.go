package profile

import "time"

// table is the brokers as their makers ship them. Whoever runs one may have set other limits: uplink/doctor asks the
// broker itself.
func table() []Profile {
	return []Profile{
		{
			Name: "aws", Title: "AWS IoT Core",
			Packet: 128 << 10, InFlight: 100, TopicSlashes: 7, TopicBytes: 256, ClientIDBytes: 128,
			KeepAliveMin: 30 * time.Second, KeepAliveMax: 20 * time.Minute, SessionExpiry: time.Hour,
			NoPlainText: true, Denial: DenialCloses, Ports: "8883, 443 with ALPN, 443 for websockets",
			Hints: map[string]string{
				"tls":         "MQTT with a client certificate is on 8883, and on 443 by ALPN, which the agent offers there with this profile. The ca: of the -ats endpoints is Amazon Root CA 1; without the name in SNI, as with an address in the URL, AWS ends the handshake",
				"certificate": "the certificate has to be registered and ACTIVE in the account and region of this endpoint",
				"connect":     "AWS closes the connection without a CONNACK when the policy of the certificate does not allow iot:Connect for this client id; such policies usually name the thing, so that only the vehicle's own id gets in: --as-vehicle",
				"subscribe":   "the policy needs iot:Subscribe on topicfilter/wb1/… and iot:Receive on topic/wb1/…, both for …/down/*",
				"publish":     "AWS closes the connection on a publish that the policy does not allow: iot:Publish on topic/wb1/…/up/*, and iot:RetainPublish for the status",
				"receipt":     "the vehicle's policy needs iot:Receive for …/down/receipt, the store's iot:Publish for it",
			},
		},
		{
			Name: "emqx", Title: "EMQX",
			Packet: 1 << 20, TopicLevels: 128, SessionExpiry: 2 * time.Hour,
			Denial: DenialDrops, Ports: "1883, 8883 with TLS, 8083 and 8084 for websockets (/mqtt)",
			Hints: map[string]string{
				"connect": "Access Control → Authentication in the dashboard; a client may be on the list of banned ones after flapping",
				"publish": "authorization.deny_action is ignore by default: a denied publish gets its PUBACK and is dropped. disconnect in its place shows denials at once",
				"receipt": "a rule engine that takes wb1/… into Kafka is no store: receipts come from waybill-fleet only, and ack: receipt needs it",
				"size":    "mqtt.max_packet_size, 1 MB by default",
			},
		},
		{
			Name: "hivemq", Title: "HiveMQ",
			InFlight: 10, TopicBytes: 65535, ClientIDBytes: 65535, KeepAliveMax: 65535 * time.Second,
			Denial: DenialCloses, Ports: "1883, and as its listeners say",
			Hints: map[string]string{
				"connect": "without an authentication extension HiveMQ lets anybody in; look at which extension refuses",
				"publish": "a denied publish closes the connection of an MQTT 3.1.1 client",
				"size":    "mqtt.packets.max-packet-size",
			},
		},
		{
			Name: "mosquitto", Title: "Mosquitto",
			TopicSlashes: 200, ClientIDBytes: 65535, KeepAliveMax: 65535 * time.Second,
			Denial: DenialDrops, Ports: "1883, 8883 with TLS, as its listeners say",
			Hints: map[string]string{
				"connect":   "since 2.0 nobody gets in without allow_anonymous true or a password_file; use_identity_as_username takes the certificate's common name for the user",
				"subscribe": "acl_file never refuses a SUBSCRIBE, the dynamic security plugin does: subscribePattern for …/down/#",
				"publish":   "the ACL: pattern write wb1/TENANT/%u/up/# (%u user, %c client id)",
				"receipt":   "acl_file grants the subscription and then drops what the user may not read: pattern read wb1/TENANT/%u/down/#",
				"size":      "message_size_limit acknowledges and drops what is larger, max_packet_size closes the connection",
			},
		},
		{
			Name: "rabbitmq", Title: "RabbitMQ",
			Packet: 16 << 20, TopicBytes: 255, SessionExpiry: 24 * time.Hour,
			NoShared: true, TopicDots: true, Denial: DenialCloses, Ports: "1883, 8883 with TLS, 15675 for websockets (/ws)",
			Hints: map[string]string{
				"connect":   "the user needs access to the virtual host; guest gets in from the loopback only; with ssl_cert_login the user is taken from the certificate",
				"subscribe": "the user needs configure, write and read on queues mqtt-subscription-*, read on amq.topic, and the topic permission for wb1.….down.#",
				"publish":   "the user needs write on amq.topic, and the topic permission for wb1.….up.#; a denied publish closes the connection, or gets no PUBACK (3.10, without write on amq.topic)",
				"size":      "mqtt.max_packet_size_authenticated, and max_message_size",
			},
		},
	}
}
