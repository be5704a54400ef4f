package can

// idTable maps 29-bit identifiers to message numbers above 0. It is open addressing with linear probing at a load of at
// most one half; a lookup touches one cache line where Go's map takes several. The zero value is empty.
type idTable struct {
	slots []idSlot
	used  int
	shift uint8 // 32 − log2(len(slots))
}

type idSlot struct {
	id     uint32
	number uint16 // 0: free
}

// hash spreads identifiers, which differ mostly in their middle bits, over the slots (Fibonacci hashing).
func (t *idTable) hash(id uint32) uint32 { return id * 0x9E3779B1 >> (t.shift & 31) }

func (t *idTable) get(id uint32) (uint16, bool) {
	if len(t.slots) == 0 {
		return 0, false
	}
	mask := uint32(len(t.slots) - 1)
	for i := t.hash(id); ; i++ {
		slot := t.slots[i&mask]
		if slot.number == 0 || slot.id == id {
			return slot.number, slot.number != 0
		}
	}
}

func (t *idTable) put(id uint32, number uint16) {
	if 2*(t.used+1) > len(t.slots) {
		old := t.slots
		t.slots, t.used = make([]idSlot, max(16, 2*len(old))), 0
		for t.shift = 32; 1<<(32-t.shift) < len(t.slots); t.shift-- {
		}
		for _, slot := range old {
			if slot.number != 0 {
				t.put(slot.id, slot.number)
			}
		}
	}
	mask := uint32(len(t.slots) - 1)
	i := t.hash(id)
	for ; t.slots[i&mask].number != 0; i++ {
		if t.slots[i&mask].id == id {
			t.slots[i&mask].number = number
			return
		}
	}
	t.slots[i&mask] = idSlot{id: id, number: number}
	t.used++
}
