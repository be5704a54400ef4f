package command

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Bounds of what is looked at.
const (
	maxEnvelope  = 16 << 10 // bytes of a Down message
	maxID        = 64
	maxArguments = 32
	maxArgument  = 4 << 10 // bytes of a name and its value
)

// domain begins what is signed, so that a signature over anything else is none over a command.
const domain = "waybill down 1\x00"

// Sign makes the message that carries a body. It is for the sender's side and for tests.
func Sign(key ed25519.PrivateKey, body *telemetrypb.DownBody) ([]byte, error) {
	signed, err := proto.Marshal(body)
	if err != nil {
		return nil, err
	}
	id := IDOf(key.Public().(ed25519.PublicKey))
	b, err := proto.Marshal(&telemetrypb.Down{Signed: signed, KeyId: id[:], Signature: ed25519.Sign(key, append([]byte(domain), signed...))})
	if err == nil && len(b) > maxEnvelope {
		err = fmt.Errorf("the command has %d bytes, at most %d are taken", len(b), maxEnvelope)
	}
	return b, err
}

// envelope is a message that was taken apart. What is in it counts only when open had nothing against it.
type envelope struct {
	key    KeyID
	digest [sha256.Size]byte // of the signed bytes
	body   *telemetrypb.DownBody
}

// open takes a message apart and verifies it. With a refusal the envelope holds what could be read, for the answer.
func open(message []byte, keys Keys) (e envelope, no *refusal) {
	e.body = &telemetrypb.DownBody{}
	if len(message) > maxEnvelope {
		return e, refuse(ReasonMalformed, "the message has %d bytes, at most %d are taken", len(message), maxEnvelope)
	}
	down := &telemetrypb.Down{}
	if err := proto.Unmarshal(message, down); err != nil {
		return e, refuse(ReasonMalformed, "the message is no envelope")
	}
	body := &telemetrypb.DownBody{}
	if err := proto.Unmarshal(down.GetSigned(), body); err != nil {
		return e, refuse(ReasonMalformed, "the envelope holds no command")
	}
	if err := checkID(body.GetId()); err != nil {
		return e, refuse(ReasonMalformed, "%v", err)
	}
	e.body, e.digest = body, sha256.Sum256(down.GetSigned())
	copy(e.key[:], down.GetKeyId())
	public, known := keys[e.key]
	switch {
	case len(keys) == 0:
		return e, refuse(ReasonKey, "this vehicle has no key for commands; name one under commands.keys of its configuration")
	case len(down.GetKeyId()) != len(e.key) || !known:
		return e, refuse(ReasonKey, "this vehicle does not know key %.16x", down.GetKeyId())
	case len(down.GetSignature()) != ed25519.SignatureSize || !ed25519.Verify(public, append([]byte(domain), down.GetSigned()...), down.GetSignature()):
		return e, refuse(ReasonSignature, "the signature is not that of key %s over this command", e.key)
	}
	return e, nil
}

// checkID holds an id to what every log, file and table can carry.
func checkID(id string) error {
	if id == "" || len(id) > maxID {
		return fmt.Errorf("the id of a command has 1 to %d characters", maxID)
	}
	for _, c := range []byte(id) {
		if c <= ' ' || c > '~' {
			return errors.New("the id of a command is printable ASCII without blanks")
		}
	}
	return nil
}

// checkBody judges what a key that is believed has signed.
func checkBody(b *telemetrypb.DownBody, tenant, device string) *refusal {
	switch {
	case b.GetTenant() != tenant || b.GetDevice() != device:
		return refuse(ReasonDevice, "the command is for another vehicle")
	case len(b.ProtoReflect().GetUnknown()) > 0 || len(b.GetCommand().ProtoReflect().GetUnknown()) > 0:
		return refuse(ReasonNewer, "the command has fields that this version does not know, and they may be conditions; update the agent")
	case b.GetCommand() == nil:
		return refuse(ReasonNewer, "this version takes only commands")
	case b.GetCounter() == 0:
		return refuse(ReasonMalformed, "a counter begins at 1")
	case len(b.GetCommand().GetArguments()) > maxArguments:
		return refuse(ReasonMalformed, "%d arguments, at most %d are taken", len(b.GetCommand().GetArguments()), maxArguments)
	}
	for name, value := range b.GetCommand().GetArguments() {
		if len(name)+len(value) > maxArgument {
			return refuse(ReasonMalformed, "an argument has %d bytes, at most %d are taken", len(name)+len(value), maxArgument)
		}
	}
	return nil
}
